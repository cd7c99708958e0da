"""A network's epochs are reported, may be pruned, and Ctrl-C is not suppressed."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from tidemill.steps.search.epochs import report_epochs
from tidemill.steps.search.pruning import Pruning, PruningCallback, TrialPruned, make_pruner


class Network:
    """As much of skorch's network as following one touches: Ctrl-C ends its fit early.

    What its callbacks measure enters the history in `notify`, after the network's own hook.
    """

    def __init__(
        self,
        epochs: int = 4,
        interrupt_after: int | None = None,
        scores: dict[str, list[float]] | None = None,
    ) -> None:
        self.max_epochs, self.interrupt_after = epochs, interrupt_after
        self.scores = scores or {}
        self.history: list[dict[str, float]] = []
        self.ended: list[int] = []

    def on_epoch_end(self, net: Any) -> None:
        self.ended.append(len(self.history))

    def notify(self, method_name: str, **kwargs: Any) -> None:
        getattr(self, method_name)(self, **kwargs)
        epoch = len(self.history) - 1
        self.history[-1] |= {name: values[epoch] for name, values in self.scores.items()}

    def fit(self) -> None:
        try:
            for epoch in range(self.max_epochs):
                self.history.append({"epoch": epoch})
                self.notify("on_epoch_end")
                if len(self.history) == self.interrupt_after:
                    signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass


@pytest.mark.parametrize("wrapped", [True, False])
def test_every_epoch_reports_the_completed_share(wrapped: bool) -> None:
    network, told = Network(), []
    model = Pipeline([("preprocess", "passthrough"), ("model", network)]) if wrapped else network
    with report_epochs(model, told.append):
        network.fit()
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert network.ended == [1, 2, 3, 4], "the network's own hook still runs"
    assert "notify" not in vars(network)


MEASURED = {"valid_loss": [0.9, 0.8, 0.7, 0.6], "valid_acc": [0.1, 0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("scores", "by_loss", "expected"),
    [
        (MEASURED, False, [(n, "valid_acc", n / 10, True) for n in (1, 2, 3, 4)]),
        (MEASURED, True, [(n, "valid_loss", 1 - n / 10, False) for n in (1, 2, 3, 4)]),
        ({"valid_loss": MEASURED["valid_loss"]}, False, [
            (n, "valid_loss", 1 - n / 10, False) for n in (1, 2, 3, 4)
        ]),
        ({}, False, []),
    ],
    ids=["accuracy", "loss", "loss alone", "no validation rows"],
)  # fmt: skip
def test_an_epochs_score_is_reported_once_measured(
    scores: dict[str, list[float]], by_loss: bool, expected: list[Any]
) -> None:
    heard: list[Any] = []

    def listen(step: int, measure: str, score: float, *, maximize: bool) -> None:
        heard.append((step, measure, pytest.approx(score), maximize))

    network = Network(scores=scores)
    with report_epochs(network, lambda share: None, listen, by_loss=by_loss):
        network.fit()
    assert heard == expected


def test_a_network_that_is_behind_is_pruned_after_an_epoch() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner(True))
    given_up: list[Pruning] = []

    def run(accuracy: float) -> Network:
        network = Network(6, scores={"valid_acc": [accuracy] * 6})
        trial = study.ask()
        watch = PruningCallback(trial, maximize=True)
        with report_epochs(network, lambda share: None, watch.report, by_loss=False):
            try:
                network.fit()
            except TrialPruned as ended:
                given_up.append(ended.pruning)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, accuracy)
        return network

    epochs = [len(run(accuracy).history) for accuracy in (0.9, 0.8, 0.7, 0.8, 0.9, 0.5, 0.85)]
    assert epochs == [6, 6, 6, 6, 6, 3, 6]
    assert given_up == [Pruning(3, "valid_acc", 0.5)]


def test_an_exception_of_the_listener_ends_the_fit() -> None:
    class Enough(BaseException):
        pass

    def refuse(share: float) -> None:
        raise Enough

    network = Network()
    with pytest.raises(Enough), report_epochs(network, refuse):
        network.fit()
    assert len(network.history) == 1
    assert "notify" not in vars(network)


def test_an_interrupt_that_the_network_suppresses_is_raised_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    network = Network(interrupt_after=2)
    with pytest.raises(KeyboardInterrupt), report_epochs(network, lambda share: None):
        network.fit()
    assert len(network.history) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_custom_signal_handler_is_kept() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with report_epochs(network := Network(interrupt_after=2), lambda share: None):
            network.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (heard, len(network.history)) == ([signal.SIGINT], 4)


def test_an_estimator_without_epochs_is_not_changed() -> None:
    told: list[float] = []
    model = LogisticRegression()
    with report_epochs(model, told.append):
        model.fit([[0.0], [1.0]], [0, 1])
    assert told == []


@pytest.mark.slow  # where PyTorch is installed
def test_skorch_reports_its_epochs_and_an_interrupt() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    told: list[float] = []
    scores: list[tuple[int, str]] = []
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)).astype("float32"), rng.integers(0, 2, 40)

    def network() -> Any:
        criterion = torch.nn.CrossEntropyLoss
        layer = torch.nn.Linear(3, 2)
        return skorch.NeuralNetClassifier(layer, criterion=criterion, max_epochs=5, verbose=0)

    model = network()

    def listen(step: int, measure: str, score: float, *, maximize: bool) -> None:
        scores.append((step, measure))

    with report_epochs(model, told.append, listen, by_loss=False):
        model.fit(X, y)
    assert scores == [(epoch, "valid_acc") for epoch in (1, 2, 3, 4, 5)]
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]

    def interrupt(share: float) -> None:
        if share == 0.4:
            signal.raise_signal(signal.SIGINT)

    model = network()
    with pytest.raises(KeyboardInterrupt), report_epochs(model, interrupt):
        model.fit(X, y)
    assert len(model.history) == 2
