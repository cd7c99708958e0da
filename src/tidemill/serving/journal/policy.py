"""What the journal records, how much it keeps, and what happens when it is full."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from tidemill.errors import SettingsError, UnavailableError


class RecordingRule(msgspec.Struct, frozen=True):
    """What is recorded of one model.

    Attributes:
        sample: The share of its requests that is recorded, from 0 to 1.
        inputs: Whether the input values are recorded too.
    """

    sample: float = 1.0
    inputs: bool = True


class JournalOptions(msgspec.Struct, frozen=True):
    """How much is kept, and what happens at the limit.

    Attributes:
        segment_bytes: A segment is closed at this size ...
        segment_seconds: ... or at this age.
        max_bytes: Limit of the folder, all processes together. Each process measures the folder
            once a second, so the limit can be exceeded by what the others write in one second.
        when_full: At the limit, or when the disk refuses to write, `drop` keeps answering and
            counts the records it drops; `refuse` answers 503 until ingest has made room.
        rule: Applies to every model that is not in `models`.
        models: Rules by model name.
    """

    segment_bytes: int = 64 << 20
    segment_seconds: float = 60.0
    max_bytes: int = 1 << 30
    when_full: Literal["drop", "refuse"] = "drop"
    rule: RecordingRule = RecordingRule()
    models: Mapping[str, RecordingRule] = msgspec.field(default_factory=dict)


def is_sampled(id: str, share: float) -> bool:
    """Whether the prediction with this id belongs to the recorded share.

    The id alone decides, so the answers of a champion and its challenger, which share an id, are
    either both recorded or both skipped.
    """
    return share >= 1.0 or zlib.crc32(id.encode()) < share * 2**32


def parse_recording_rules(text: str, default: RecordingRule) -> dict[str, RecordingRule]:
    """Parse TIDEMILL_JOURNAL_RULES into rules by model name.

    Args:
        text: Comma-separated `name=share` or `name=share:noinputs` entries.
        default: Supplies what an entry leaves out.

    Raises:
        SettingsError: An entry has another form, or its share is not between 0 and 1.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    return dict(_parse_rule(entry, default) for entry in entries)


def journal_full_error() -> UnavailableError:
    """The 503 for a prediction that cannot be recorded under the policy `refuse`."""
    return UnavailableError(
        "The journal is full, and predictions that cannot be recorded are refused.",
        remedy="Check that ingest is running, or raise TIDEMILL_JOURNAL_MAX_BYTES.",
    )


def _parse_rule(entry: str, default: RecordingRule) -> tuple[str, RecordingRule]:
    name, _, value = entry.rpartition("=")
    share, _, inputs = value.partition(":")
    try:
        sample = float(share) if share else default.sample
    except ValueError:
        sample = -1.0
    if not name or not 0 <= sample <= 1 or inputs not in ("", "inputs", "noinputs"):
        raise SettingsError(
            f"TIDEMILL_JOURNAL_RULES contains the invalid entry '{entry}'.",
            field="TIDEMILL_JOURNAL_RULES",
            expected="name=share or name=share:noinputs, with a share between 0 and 1",
        )
    return name, RecordingRule(sample, inputs == "inputs" if inputs else default.inputs)
