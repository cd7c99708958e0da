"""Reporting of a neural network's epochs while it is fitted: progress, scores, and Ctrl-C.

See decision 075.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol


class ScoreListener(Protocol):
    """Receives a score after an epoch (`step`, counted from 1), and whether higher is better."""

    def __call__(self, step: int, measure: str, score: float, *, maximize: bool) -> None: ...


def is_network(estimator: Any) -> bool:
    """Whether it is a skorch network, or has the same interface."""
    return hasattr(estimator, "notify") and hasattr(estimator, "max_epochs")


@contextmanager
def report_epochs(
    model: Any,
    on_progress: Callable[[float], None],
    on_score: ScoreListener | None = None,
    *,
    by_loss: bool = True,
) -> Iterator[None]:
    """Report the epochs of a skorch network that is fitted inside the block.

    Ctrl-C inside raises KeyboardInterrupt afterwards. skorch itself stops and returns the
    half-trained network as if it were complete.

    Args:
        model: An unfitted estimator, or a pipeline that ends in one. Nothing is reported if it is
            not a network.
        on_progress: Called after every epoch with the completed share, 0 to 1; what it raises ends
            the fit.
        on_score: Called with the network's score on its own validation rows, if it has any.
        by_loss: Report the validation loss even if the network measures its accuracy too.
    """
    network = model.steps[-1][1] if hasattr(model, "steps") else model
    if not is_network(network):
        yield
        return
    original = network.notify

    def notify(method_name: str, **kwargs: Any) -> None:
        original(method_name, **kwargs)  # skorch's callbacks write the scores into the history
        if method_name == "on_epoch_end":
            on_progress(min(len(network.history) / network.max_epochs, 1.0))
            if on_score is not None:
                _report_score(network.history, on_score, by_loss)

    network.notify = notify
    try:
        with _reraise_interrupt():
            yield
    finally:
        del network.notify


def _report_score(history: Any, on_score: ScoreListener, by_loss: bool) -> None:
    latest = history[-1]
    measures = ["valid_loss"] if by_loss else ["valid_acc", "valid_loss"]
    for measure in measures:
        if measure in latest:
            value = float(latest[measure])
            on_score(len(history), measure, value, maximize=measure == "valid_acc")
            return


@contextmanager
def _reraise_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block if one inside was suppressed."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        yield
        return
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
