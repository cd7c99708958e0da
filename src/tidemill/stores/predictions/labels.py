"""Whether a label fits a model, and the one form in which it is kept."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec

from tidemill.errors import InputError
from tidemill.signature import Label, Signature

MOST_SHOWN = 10


def coerce_label(actual: Any, signature: Signature) -> Label:
    """The label as the model's own labels and numbers are.

    A whole number is taken where a number is wanted, and 1.0 for the label 1. A text is taken for
    what it spells, "1" for the label 1 and "2.5" for a number, because files hold nothing else.

    Raises:
        InputError: Another type, not finite, or a label that the model does not know.
    """
    if signature.task == "regression":
        return _number(actual, signature.target)
    for label in signature.labels:
        if _is(actual, label) or (not isinstance(label, str) and _spells(actual, label)):
            return label
    names = [repr(label) for label in signature.labels[:MOST_SHOWN]]
    more = len(signature.labels) - MOST_SHOWN
    raise InputError(
        f"The model does not know the label {_shown(actual)}.",
        field="actual",
        expected=f"one of {', '.join(names)}" + (f" and {more} more" if more > 0 else ""),
    )


def _number(actual: Any, target: str) -> float:
    value = math.nan
    if isinstance(actual, str | int | float) and not isinstance(actual, bool):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(actual)
    if not math.isfinite(value):
        raise InputError(
            f"'{target}' cannot be {_shown(actual)}.", field="actual", expected="a finite number"
        )
    return value


def _is(actual: Any, label: Label) -> bool:
    """Equal and of one type, where 1 and 1.0 are of one and true is of none of theirs."""
    if isinstance(label, str | bool) or isinstance(actual, str | bool):
        return type(actual) is type(label) and actual == label
    return isinstance(actual, int | float) and actual == label


def _spells(actual: Any, label: Label) -> bool:
    if not isinstance(actual, str):
        return False
    if isinstance(label, bool):
        return actual.strip().lower() == str(label).lower()
    try:
        return float(actual) == label
    except ValueError:
        return False


def _shown(actual: Any) -> str:
    text = msgspec.json.encode(actual).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
