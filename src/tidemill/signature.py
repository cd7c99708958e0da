"""The signature of a model: its inputs and output, against which every request is checked.

A model takes either named columns (a table) or one tensor. It predicts one value per row: a label
from a fixed list (classification) or a number (regression).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

import msgspec

from tidemill import datetimes
from tidemill.errors import InputError

Task = Literal["classification", "regression"]
Kind = Literal["number", "integer", "boolean", "text", "datetime"]
Label = str | int | float | bool
Value = str | int | float | bool | None

KIND_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "text": "a string",
    "datetime": "a date or time",
}


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One named input.

    Attributes:
        nullable: The column had missing values in training, so null and NaN are accepted.
        categories: The strings that a `text` column accepts; None accepts any.
        format: Of a `datetime` column, one of `tidemill.datetimes`.
    """

    name: str
    kind: Kind
    nullable: bool = False
    categories: tuple[str, ...] | None = None
    format: str | None = None

    def describe(self) -> str:
        """What the column accepts, in words, for error messages."""
        if self.categories is not None:
            shown = ", ".join(repr(c) for c in self.categories[:10])
            more = len(self.categories) - 10
            words = f"one of {shown}" + (f" and {more} more" if more > 0 else "")
        elif self.format is not None:
            words = datetimes.in_words(self.format)
        else:
            words = KIND_WORDS[self.kind]
        return f"{words} or null" if self.nullable else words


class Tensor(msgspec.Struct, frozen=True):
    """One input of numbers with a fixed shape.

    A request gives each row nested, or flat in C order.

    Attributes:
        shape: Without the row axis: (1, 28, 28) for an image, for example.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def size(self) -> int:
        """Number of values per row."""
        return math.prod(self.shape)


class Signature(msgspec.Struct, frozen=True):
    """The inputs and the output of one model.

    Attributes:
        target: The name of the predicted value.
        columns: In the order of training; empty for a tensor model.
        tensor: None for a table model.
        labels: In the order of the probabilities; empty for regression.

    Raises:
        ValueError: There are both columns and a tensor or neither, two columns have the same name,
            or the labels do not fit the task.
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

    @property
    def stored(self) -> Signature:
        """The signature of rows that have been checked: their datetimes are numbers of seconds."""
        if all(column.kind != "datetime" for column in self.columns):
            return self
        columns = tuple(
            Column(c.name, "number", c.nullable) if c.kind == "datetime" else c
            for c in self.columns
        )
        return msgspec.structs.replace(self, columns=columns)


def as_sent(signature: Signature, row: Sequence[Value]) -> list[Value]:
    """Write a checked row as a client sends it: datetimes in their columns' formats."""
    if signature.tensor is not None:
        return list(row)
    return [
        value if c.format is None or value is None else datetimes.shown(float(value), c.format)
        for c, value in zip(signature.columns, row, strict=True)
    ]


def check_value(column: Column, value: Value) -> Value:
    """Check a value; NaN counts as missing and becomes None.

    A whole number is accepted as a number, and 3.0 as a whole number. Infinities are never
    accepted. A datetime becomes a number of seconds.

    Raises:
        InputError: The column does not accept the value.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if column.nullable:
            return None
        raise _input_error(column, "is missing (null or NaN)")
    if column.format is not None:
        return _seconds(column, value)
    if not _has_kind(column.kind, value):
        raise _input_error(column, f"is {_shown(value)}")
    if isinstance(value, float) and math.isinf(value):
        raise _input_error(column, "is infinite")
    if column.categories is not None and value not in column.categories:
        raise _input_error(column, f"is {_shown(value)}, which the model never saw in training")
    return value


def _seconds(column: Column, value: Any) -> float:
    assert column.format is not None
    if isinstance(value, date):  # from a Parquet file
        value = value.isoformat()
    if not isinstance(value, str | int | float):
        raise _input_error(column, f"is {_shown(value)}")
    try:
        return datetimes.to_seconds(value, column.format)
    except datetimes.DateError as error:
        raise _input_error(column, f"is {_shown(value)}, which {error}") from error


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


def _input_error(column: Column, found: str) -> InputError:
    expected = column.describe()
    return InputError(
        f"'{column.name}' {found}; expected {expected}.", field=column.name, expected=expected
    )
