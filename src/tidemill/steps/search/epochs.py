"""Follow a network through its epochs: how far it is, how good, and Ctrl-C while it learns."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol


class ScoreListener(Protocol):
    """Hears a score after an epoch, counted from 1, and whether more of it is better."""

    def __call__(self, step: int, measure: str, score: float, *, maximize: bool) -> None: ...


def is_network(estimator: Any) -> bool:
    """Whether it is a network of skorch's, or works like one."""
    return hasattr(estimator, "notify") and hasattr(estimator, "max_epochs")


@contextmanager
def report_epochs(
    model: Any,
    tell: Callable[[float], None],
    score: ScoreListener | None = None,
    *,
    by_loss: bool = True,
) -> Iterator[None]:
    """While a skorch network is fitted inside, tell the share of its epochs that is done.

    Ctrl-C inside comes out as KeyboardInterrupt: skorch itself takes it for the wish to keep what
    was learned so far, and a half-trained model would go on as if it were whole.

    Args:
        model: An unfitted estimator, or a pipeline that ends in one; any other passes unwatched.
        tell: Is called after every epoch with a share from 0 to 1; what it raises comes through.
        score: Hears what the network measured on its own validation rows, where it has any.
        by_loss: Take the loss even where the network measures its accuracy as well.
    """
    network = model.steps[-1][1] if hasattr(model, "steps") else model
    if not is_network(network):
        yield
        return
    own = network.notify

    def notify(method_name: str, **kwargs: Any) -> None:
        own(method_name, **kwargs)  # its callbacks write the epoch's scores into the history
        if method_name == "on_epoch_end":
            tell(min(len(network.history) / network.max_epochs, 1.0))
            if score is not None:
                _tell_score(network.history, score, by_loss)

    network.notify = notify
    try:
        with _interrupt_kept():
            yield
    finally:
        del network.notify


def _tell_score(history: Any, score: ScoreListener, by_loss: bool) -> None:
    known = history[-1]
    measures = ["valid_loss"] if by_loss else ["valid_acc", "valid_loss"]
    for measure in measures:
        if measure in known:
            score(len(history), measure, float(known[measure]), maximize=measure == "valid_acc")
            return


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Raise KeyboardInterrupt again at the end, where it came from the keyboard and got lost."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        yield
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> NoReturn:
        heard.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
