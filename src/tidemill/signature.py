"""What a model takes and what it answers: the contract every request is checked against.

A model takes either named columns (a table) or one tensor. It answers one value a row: a label out
of a fixed list (classification) or a number (regression).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from tidemill.errors import InputError

Task = Literal["classification", "regression"]
Kind = Literal["number", "integer", "boolean", "text"]
Label = str | int | float | bool
Value = str | int | float | bool | None

KIND_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "text": "a string",
}


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One named input.

    `nullable` columns had missing values in training (so the model learned what to do with them):
    null and NaN are accepted there and refused elsewhere. `categories` lists the texts a `text`
    column may hold; None accepts any text.
    """

    name: str
    kind: Kind
    nullable: bool = False
    categories: tuple[str, ...] | None = None

    def describe(self) -> str:
        """What the column accepts, in words for an error message."""
        if self.categories is not None:
            shown = ", ".join(repr(c) for c in self.categories[:10])
            more = len(self.categories) - 10
            words = f"one of {shown}" + (f" and {more} more" if more > 0 else "")
        else:
            words = KIND_WORDS[self.kind]
        return f"{words} or null" if self.nullable else words


class Tensor(msgspec.Struct, frozen=True):
    """One input of numbers with a fixed shape, without the row axis: (1, 28, 28) for an image.

    A request gives it flat in C order or nested.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Signature(msgspec.Struct, frozen=True):
    """The inputs and the output of one model.

    `columns` in the order of training, or `tensor`; never both, never neither.
    `target` is the name of what is predicted. `labels` in the order of the probabilities;
    empty for regression.
    """

    task: Task
    target: str
    columns: tuple[Column, ...] = ()
    tensor: Tensor | None = None
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.columns) == (self.tensor is not None):
            raise ValueError("a signature has either columns or a tensor")
        if (self.task == "classification") != bool(self.labels):
            raise ValueError("a classifier has labels, a regressor has none")
        if len({c.name for c in self.columns}) != len(self.columns):
            raise ValueError("two columns share a name")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return (self.tensor.name,) if self.tensor else tuple(c.name for c in self.columns)


def check_value(column: Column, value: Value) -> Value:
    """The value as the model takes it, or an InputError that names the column.

    A whole number is accepted where a number is wanted, and 3.0 where a whole number is.
    Infinities are refused everywhere; NaN counts as missing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if column.nullable:
            return None
        raise _refusal(column, "is missing (null or NaN)")
    if not _has_kind(column.kind, value):
        raise _refusal(column, f"is {_shown(value)}")
    if isinstance(value, float) and math.isinf(value):
        raise _refusal(column, "is infinite")
    if column.categories is not None and value not in column.categories:
        raise _refusal(column, f"is {_shown(value)}, which the model never saw in training")
    return value


def _has_kind(kind: Kind, value: Any) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "number" or isinstance(value, int) or value.is_integer() or math.isinf(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "..."


def _refusal(column: Column, what: str) -> InputError:
    expected = column.describe()
    return InputError(
        f"'{column.name}' {what}; expected {expected}.", field=column.name, expected=expected
    )
