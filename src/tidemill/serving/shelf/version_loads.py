"""Loads versions side by side, so that one that never finishes delays no other.

See decision 205.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Container
from functools import partial
from typing import Generic, TypeVar

from tidemill.errors import BundleError, TidemillError
from tidemill.serving.shelf.shelf import ShelfEntry

T = TypeVar("T")
AT_ONCE = 4


class VersionLoads(Generic[T]):
    """The versions that are being loaded, at most one per model.

    Args:
        load: Loads the version of a shelf entry; runs in a thread.
    """

    def __init__(self, load: Callable[[str, ShelfEntry], T]) -> None:
        self._load = load
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._loads: dict[str, tuple[ShelfEntry, asyncio.Task[T]]] = {}

    def take(self, name: str, entry: ShelfEntry) -> T | None:
        """The loaded version, once; None while it is being loaded, which this call may begin.

        Raises:
            TidemillError: It cannot be loaded. The next call tries again.
        """
        wanted, task = self._loads.get(name, (None, None))
        if task is None or wanted is None or not _is_same(wanted, entry):
            self.cancel(name)
            self._loads[name] = entry, asyncio.create_task(self._run(name, entry))
            return None
        if not task.done():
            return None
        del self._loads[name]
        return task.result()

    def keep(self, names: Container[str]) -> None:
        """Forget the versions of all other models."""
        for name in [name for name in self._loads if name not in names]:
            self.cancel(name)

    def cancel(self, name: str) -> None:
        """Forget the version of a model that is being loaded; its thread may run on."""
        if name in self._loads:
            self._loads.pop(name)[1].cancel()

    async def wait(self, seconds: float) -> bool:
        """Wait until another version is loaded, or cannot be; False if none was within the time."""
        tasks = [task for _, task in self._loads.values()]
        if not tasks or seconds <= 0:
            return False
        return bool((await asyncio.wait(tasks, timeout=seconds, return_when="FIRST_COMPLETED"))[0])

    def stop(self) -> None:
        """Forget all that is being loaded."""
        self.keep(())

    async def _run(self, name: str, entry: ShelfEntry) -> T:
        async with self._slots:
            try:
                return await in_daemon_thread(partial(self._load, name, entry))
            except TidemillError:
                raise
            except Exception as error:  # such as a lack of memory; other models are not affected
                reason = f"{type(error).__name__}: {error}"
                raise BundleError(f"Version {entry.version} cannot be loaded: {reason}") from error


def _is_same(one: ShelfEntry, other: ShelfEntry) -> bool:
    return (one.version, one.digest) == (other.version, other.digest)


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """Like `asyncio.to_thread`, but the process can end while the call is running."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, call())
        except Exception as error:
            outcome = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
