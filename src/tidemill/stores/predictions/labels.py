"""The value of a label: whether it fits a model, and the form in which it is stored."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec

from tidemill.errors import InputError, RequestError
from tidemill.signature import Label, Signature

MAX_SHOWN_LABELS = 10
MAX_ID_CHARACTERS, MAX_LABEL_BYTES = 64, 1_000

_encode = msgspec.json.Encoder().encode


def check_prediction_id(position: int, id: str) -> str:
    """Return the id of a prediction in a list of labels.

    Args:
        position: The label's position in the list, for the error.

    Raises:
        RequestError: No prediction can have that id.
    """
    if not id or len(id) > MAX_ID_CHARACTERS or not id.isprintable():
        raise RequestError(
            f"Label {position} has an id that no prediction has.",
            field=f"{position}.id",
            expected="the `id` of an answer; for a row of a batch `<id>-<row>`",
        )
    return id


def encode_label(position: int, actual: Any) -> str:
    """Return a label as JSON.

    Args:
        position: The label's position in the list, for the error.

    Raises:
        RequestError: It is not a text, a finite number or a boolean, or it is too long.
    """
    if isinstance(actual, str) or _is_bounded(actual):
        try:
            encoded = _encode(actual).decode()
        except (OverflowError, UnicodeEncodeError):
            encoded = ""
        if 0 < len(encoded) <= MAX_LABEL_BYTES:
            return encoded
    raise RequestError(
        f"Label {position} is neither a label nor a number.",
        field=f"{position}.actual",
        expected=f"a text, a finite number or a boolean of at most {MAX_LABEL_BYTES} characters",
    )


def coerce_label(actual: Any, signature: Signature) -> Label:
    """Convert a label to the type of the model's own labels or numbers.

    Integers are accepted for numbers, and 1.0 for the label 1. Text is accepted for the value it
    spells, "1" for the label 1 and "2.5" for a number, because files contain nothing else.

    Raises:
        InputError: The label has another type, is not finite, or is unknown to the model.
    """
    if signature.task == "regression":
        return _number(actual, signature.target)
    for label in signature.labels:
        if _equals(actual, label) or (not isinstance(label, str) and _spelled_as(actual, label)):
            return label
    names = [repr(label) for label in signature.labels[:MAX_SHOWN_LABELS]]
    more = len(signature.labels) - MAX_SHOWN_LABELS
    raise InputError(
        f"The model does not know the label {_shortened(actual)}.",
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
            f"'{target}' cannot be {_shortened(actual)}.",
            field="actual",
            expected="a finite number",
        )
    return value


def _is_bounded(actual: Any) -> bool:
    """Whether it is a number that every database and JSON reader accepts."""
    if isinstance(actual, bool | int):
        return -(2**63) <= actual < 2**63
    return isinstance(actual, float) and math.isfinite(actual)


def _equals(actual: Any, label: Label) -> bool:
    """Whether both are equal and of the same type; 1 and 1.0 count as one type, true does not."""
    if isinstance(label, str | bool) or isinstance(actual, str | bool):
        return type(actual) is type(label) and actual == label
    return isinstance(actual, int | float) and actual == label


def _spelled_as(actual: Any, label: Label) -> bool:
    if not isinstance(actual, str):
        return False
    if isinstance(label, bool):
        return actual.strip().lower() == str(label).lower()
    try:
        return float(actual) == label
    except ValueError:
        return False


def _shortened(actual: Any) -> str:
    text = msgspec.json.encode(actual).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
