"""Trigger files: `triggers/<id>.trigger` in the home, for programs that watch folders.

Every trigger has one, as JSON, written again when it closes. A file that another program drops in
the folder requests a retraining:

    echo '{"model": "churn", "reason": "new prices"}' > .tidemill/triggers/prices.trigger

The answer is written to `prices.answer.json`, and the file is renamed to `prices.taken` or
`prices.refused`.
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
#: An invalid file may be half written; after this long it is refused.
SETTLE_SECONDS = 2.0
#: How long files of closed triggers are kept.
KEEP_SECONDS = 30 * 86400.0

#: Opens a manual trigger and submits its retraining.
RequestRetraining = Callable[[NewTrigger], Trigger]


class DroppedTrigger(msgspec.Struct, forbid_unknown_fields=True):
    """The contents of a dropped file."""

    model: str
    reason: str = "a trigger file"


class TriggerFiles:
    """The folder of trigger files."""

    def __init__(self, folder: Path, triggers: Triggers) -> None:
        self._folder = folder
        self._triggers = triggers
        self._written: dict[str, str] = {}
        self._settled: set[str] = set()

    def write(self, trigger: Trigger) -> None:
        """Write the trigger's file if it is missing or out of date."""
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

    def open_dropped(self, request: RequestRetraining) -> list[Trigger]:
        """Open a trigger for every dropped file; refuse invalid ones."""
        taken = []
        for path in self._dropped():
            trigger = self._take(path, request)
            taken += [] if trigger is None else [trigger]
        return taken

    def _dropped(self) -> list[Path]:
        """Files of unknown triggers, by name; removes old files of closed triggers."""
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

    def _take(self, path: Path, request: RequestRetraining) -> Trigger | None:
        try:
            stamp = path.lstat()
            dropped = self._read(path)
        except FileNotFoundError:
            return None  # another process took it
        except (OSError, ValueError) as error:
            if time.time() - path.lstat().st_mtime >= SETTLE_SECONDS:
                self._answer(path, REFUSED, {"accepted": False, "detail": str(error)})
            return None
        # The same file has the same key, in case this process dies before it is renamed.
        key = f"file:{path.name[:180]}:{stamp.st_ino}:{stamp.st_mtime_ns}"
        new = NewTrigger(
            dropped.model, "manual", dropped.reason[:2000], cause_key=key, actor="file"
        )
        return self._open(path, new, request)

    def _open(self, path: Path, new: NewTrigger, request: RequestRetraining) -> Trigger | None:
        try:
            trigger = request(new)
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
    """Replace the file in one step, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
