"""Trigger files: `triggers/<id>.trigger` in the home, for programs that watch folders.

Each trigger has one, JSON, written again when it closes. A file that somebody else drops there
asks for a retraining by hand:

    echo '{"model": "churn", "reason": "new prices"}' > .tidemill/triggers/prices.trigger

It is answered beside it, in `prices.answer.json`, and renamed: `prices.taken`, `prices.refused`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidemill.errors import TidemillError, UnavailableError
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers, as_document

logger = logging.getLogger(__name__)

SUFFIX, TAKEN, REFUSED, ANSWER = ".trigger", ".taken", ".refused", ".answer.json"
MAX_BYTES = 64 * 1024
#: A file that makes no sense may be half written; after so long it is what it is.
SETTLE_SECONDS = 2.0
#: Files of closed triggers stay so long.
KEEP_SECONDS = 30 * 86400.0

Ask = Callable[[NewTrigger], Trigger]


class DroppedTrigger(msgspec.Struct, forbid_unknown_fields=True):
    """What a dropped file says."""

    model: str
    reason: str = "a trigger file"


class TriggerFiles:
    """The folder of trigger files."""

    def __init__(self, folder: Path, triggers: Triggers) -> None:
        self._folder = folder
        self._triggers = triggers
        self._written: dict[str, str] = {}
        self._settled: set[str] = set()
        #: Opens a trigger by hand; set when it is known, since that needs this object.
        self.ask: Ask | None = None

    def write(self, trigger: Trigger) -> None:
        """Write the trigger's file where it is missing or says something else."""
        text = json.dumps(as_document(trigger), indent=2)
        path = self._folder / f"{trigger.id}{SUFFIX}"
        if self._written.get(trigger.id) == text and path.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
        except OSError as error:
            logger.warning("the trigger file %s could not be written: %s", path, error)
            return
        self._written[trigger.id] = text
        if trigger.closed is not None:
            self._written.pop(trigger.id)
            self._settled.add(trigger.id)

    def refresh(self, model: str) -> None:
        """Write the files of triggers that closed since they were written."""
        for trigger_id in list(self._written):
            trigger = self._triggers.find(trigger_id)
            if trigger is None:
                self._written.pop(trigger_id)
            elif trigger.model == model:
                self.write(trigger)

    def take_up(self) -> list[Trigger]:
        """Open a trigger for every file that somebody dropped; answer those that make no sense."""
        taken = []
        for path in self._dropped():
            trigger = self._take(path)
            taken += [] if trigger is None else [trigger]
        return taken

    def _dropped(self) -> list[Path]:
        """Files that are not of our triggers, oldest name first; old files of ours go."""
        if not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path.name.startswith("."):
                continue
            if not self._is_ours(path):
                found.append(path)
            elif time.time() - path.lstat().st_mtime > KEEP_SECONDS:
                path.unlink(missing_ok=True)
                self._settled.discard(path.name.removesuffix(SUFFIX))
        return found

    def _is_ours(self, path: Path) -> bool:
        identity = path.name.removesuffix(SUFFIX)
        if identity in self._written or identity in self._settled:
            return True
        trigger = self._triggers.find(identity)
        if trigger is not None:
            self.write(trigger)  # another process may have closed it
        return trigger is not None

    def _take(self, path: Path) -> Trigger | None:
        try:
            stamp = path.lstat()
            wish = self._read(path)
        except FileNotFoundError:
            return None  # another process was faster
        except (OSError, ValueError) as error:
            if time.time() - path.lstat().st_mtime >= SETTLE_SECONDS:
                self._answer(path, REFUSED, {"accepted": False, "detail": str(error)})
            return None
        # The same file gives the same key, should this process die before it is renamed.
        key = f"file:{path.name[:180]}:{stamp.st_ino}:{stamp.st_mtime_ns}"
        new = NewTrigger(wish.model, "manual", wish.reason[:2000], cause_key=key, actor="file")
        return self._open(path, new)

    def _open(self, path: Path, new: NewTrigger) -> Trigger | None:
        assert self.ask is not None
        try:
            trigger = self.ask(new)
        except UnavailableError:
            raise
        except TidemillError as error:
            earlier = self._triggers.by_key(new.model, str(new.cause_key))
            if earlier is None:
                self._answer(path, REFUSED, {"accepted": False, **error.problem()})
                return None
            trigger = earlier
        self._answer(path, TAKEN, {"accepted": True, "trigger": trigger.id})
        return trigger

    def _read(self, path: Path) -> DroppedTrigger:
        if path.is_symlink() or not path.is_file():
            raise ValueError("It is not an ordinary file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"It is larger than {MAX_BYTES} bytes.")
        try:
            return msgspec.json.decode(content, type=DroppedTrigger)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(
                f'It is not JSON such as {{"model": "churn", "reason": "why"}}: {error}'
            ) from error

    def _answer(self, path: Path, suffix: str, answer: dict[str, Any]) -> None:
        stem = path.name.removesuffix(SUFFIX)
        with contextlib.suppress(OSError):
            _replace(path.with_name(f"{stem}{ANSWER}"), json.dumps(answer, indent=2))
            path.replace(path.with_name(f"{stem}{suffix}"))
        logger.info("the trigger file %s: %s", path.name, answer)


def _replace(path: Path, text: str) -> None:
    """So that nobody reads half of it."""
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
