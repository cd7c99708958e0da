"""Follow a network through its epochs: how far it has come, and Ctrl-C while it learns."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


@contextmanager
def followed(model: Any, tell: Callable[[float], None]) -> Iterator[None]:
    """While a skorch network is fitted inside, tell the share of its epochs that is done.

    Ctrl-C inside comes out as KeyboardInterrupt: skorch itself takes it for the wish to keep what
    was learned so far, and a half-trained model would go on as if it were whole.

    Args:
        model: An unfitted estimator, or a pipeline that ends in one; any other passes unwatched.
        tell: Is called after every epoch with a share from 0 to 1; what it raises comes through.
    """
    network = model.steps[-1][1] if hasattr(model, "steps") else model
    if not (hasattr(network, "on_epoch_end") and hasattr(network, "max_epochs")):
        yield
        return
    own = network.on_epoch_end

    def on_epoch_end(*args: Any, **kwargs: Any) -> None:
        own(*args, **kwargs)
        tell(min(len(network.history) / network.max_epochs, 1.0))

    network.on_epoch_end = on_epoch_end
    try:
        with _interrupt_kept():
            yield
    finally:
        del network.on_epoch_end


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
