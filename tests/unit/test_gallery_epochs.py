"""A network is followed through its epochs, and Ctrl-C ends it instead of cutting it short."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from tidemill.steps.epochs import followed


class Network:
    """As much of skorch's network as following one touches: Ctrl-C ends its fit early."""

    def __init__(self, epochs: int = 4, interrupt_after: int | None = None) -> None:
        self.max_epochs, self.interrupt_after = epochs, interrupt_after
        self.history: list[int] = []
        self.ended: list[int] = []

    def on_epoch_end(self, net: Any) -> None:
        self.ended.append(len(self.history))

    def fit(self) -> None:
        try:
            for epoch in range(self.max_epochs):
                self.history.append(epoch)
                self.on_epoch_end(self)
                if len(self.history) == self.interrupt_after:
                    signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pass


@pytest.mark.parametrize("wrapped", [True, False])
def test_every_epoch_is_told_as_a_share(wrapped: bool) -> None:
    network, told = Network(), []
    model = Pipeline([("preprocess", "passthrough"), ("model", network)]) if wrapped else network
    with followed(model, told.append):
        network.fit()
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert network.ended == [1, 2, 3, 4], "the network's own hook still runs"
    assert "on_epoch_end" not in vars(network)


def test_what_the_listener_raises_ends_the_fit() -> None:
    class Enough(BaseException):
        pass

    def refuse(share: float) -> None:
        raise Enough

    network = Network()
    with pytest.raises(Enough), followed(network, refuse):
        network.fit()
    assert len(network.history) == 1
    assert "on_epoch_end" not in vars(network)


def test_an_interrupt_that_the_network_swallows_comes_out_all_the_same() -> None:
    before = signal.getsignal(signal.SIGINT)
    network = Network(interrupt_after=2)
    with pytest.raises(KeyboardInterrupt), followed(network, lambda share: None):
        network.fit()
    assert len(network.history) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_programs_own_is_left_in_place() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with followed(network := Network(interrupt_after=2), lambda share: None):
            network.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (heard, len(network.history)) == ([signal.SIGINT], 4)


def test_an_estimator_without_epochs_is_left_alone() -> None:
    told: list[float] = []
    model = LogisticRegression()
    with followed(model, told.append):
        model.fit([[0.0], [1.0]], [0, 1])
    assert told == []


@pytest.mark.slow  # where PyTorch is installed
def test_skorch_tells_its_epochs_and_gives_up_an_interrupt() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    told: list[float] = []
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)).astype("float32"), rng.integers(0, 2, 40)

    def network() -> Any:
        criterion = torch.nn.CrossEntropyLoss
        layer = torch.nn.Linear(3, 2)
        return skorch.NeuralNetClassifier(layer, criterion=criterion, max_epochs=5, verbose=0)

    model = network()
    with followed(model, told.append):
        model.fit(X, y)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]

    def interrupt(share: float) -> None:
        if share == 0.4:
            signal.raise_signal(signal.SIGINT)

    model = network()
    with pytest.raises(KeyboardInterrupt), followed(model, interrupt):
        model.fit(X, y)
    assert len(model.history) == 2
