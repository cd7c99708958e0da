"""The forms a request may have, read the way that explains: every refusal names field and remedy.

One row is a list in the order of the signature, or an object of named fields, either at the top
level or under `features`; a tensor is a list, flat or nested, under `features` or its own name.
Many rows are a list of those under `instances`. A name given twice counts the last time, as in
most JSON readers. `tidemill.serving.codec.row_decoder` reads the common forms faster and leaves
the rest here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.errors import InputError, MalformedError
from tidemill.signature import Column, Signature, Tensor, Value, check_value

Row = Sequence[Value]
FEATURES = "features"
INSTANCES = "instances"
INT64 = 1 << 63


def read_json(body: bytes) -> Any:
    """The body as plain values.

    Raises:
        MalformedError: It is not UTF-8, not JSON, too deep, or holds a number beyond all bounds.
    """
    if not body:
        raise MalformedError("The body is empty.", expected="a JSON object")
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise MalformedError(f"The body is not UTF-8: {error}.") from error
    except RecursionError as error:
        raise MalformedError("The body is nested too deeply.") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedError(
            f"The body is not JSON: {error}.",
            remedy="Numbers are finite; NaN and Infinity are not JSON, null stands for missing.",
        ) from error


def read_rows(signature: Signature, body: bytes) -> tuple[list[Row], bool]:
    """The rows of a body in any form, and whether it was the form for many.

    Raises:
        InputError: Names the row, the field and what was expected.
    """
    payload = read_json(body)
    if not isinstance(payload, dict):
        raise InputError(
            f"The body is {_kind(payload)}.", expected="an object", remedy=_forms(signature)
        )
    if _asks_for_many(signature, payload):
        return _instances(signature, payload), True
    return [read_row(signature, payload)], False


def read_row(signature: Signature, given: Any, where: str = "") -> Row:
    """One row in any form of one row; `where` begins the error messages."""
    try:
        if signature.tensor is not None:
            return _tensor_row(signature.tensor, given)
        return _table_row(signature, given)
    except InputError as error:
        if not where:
            raise
        raise InputError(
            f"{where}: {error.detail}",
            field=error.field,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def named_row(signature: Signature, fields: Mapping[str, Any]) -> Row:
    """A row of named fields; every column must be there, and nothing else."""
    missing = [c.name for c in signature.columns if c.name not in fields]
    if missing or len(fields) > len(signature.columns):
        known = set(signature.names)
        raise _wrong_names(signature, missing, [name for name in fields if name not in known])
    return [coerce(column, fields[column.name]) for column in signature.columns]


def listed_row(signature: Signature, values: Sequence[Any]) -> Row:
    """A row of values in the order of the signature."""
    columns = signature.columns
    if len(values) != len(columns):
        raise InputError(
            f"'{FEATURES}' has {len(values)} values; the model takes {len(columns)}.",
            field=FEATURES,
            expected=f"{len(columns)} values: {_listed(signature.names)}",
        )
    return [_listed_value(signature, i, column, values[i]) for i, column in enumerate(columns)]


def coerce(column: Column, value: Value) -> Value:
    """The value as the arrays hold it: numbers as float, whole ones as int, missing as None.

    Raises:
        InputError: It is not what the column takes, or beyond what 64 bits hold.
    """
    checked = check_value(column, value)
    if checked is None or isinstance(checked, bool | str):
        return checked
    if column.kind == "integer":
        whole = int(checked)
        if -INT64 <= whole < INT64:
            return whole
    else:
        with contextlib.suppress(OverflowError):
            return float(checked)
    raise InputError(
        f"'{column.name}' is beyond what 64 bits hold.",
        field=column.name,
        expected=column.describe(),
    )


def _asks_for_many(signature: Signature, payload: dict[str, Any]) -> bool:
    return INSTANCES in payload and (
        INSTANCES not in signature.names or isinstance(payload[INSTANCES], list)
    )


def _instances(signature: Signature, payload: dict[str, Any]) -> list[Row]:
    given = payload[INSTANCES]
    if len(payload) > 1:
        extra = [name for name in payload if name != INSTANCES]
        raise InputError(
            f"Beside '{INSTANCES}' the body holds {_listed(extra)}.",
            field=extra[0],
            expected=f"'{INSTANCES}' alone",
        )
    if not isinstance(given, list) or not given:
        what = "empty" if given == [] else _kind(given)
        raise InputError(
            f"'{INSTANCES}' is {what}.", field=INSTANCES, expected="a list of at least one row"
        )
    return [read_row(signature, row, f"{INSTANCES}[{i}]") for i, row in enumerate(given)]


def _table_row(signature: Signature, given: Any) -> Row:
    if isinstance(given, list):
        return listed_row(signature, given)
    if not isinstance(given, dict):
        raise InputError(f"A row is {_kind(given)}.", expected=_forms(signature))
    inner = given.get(FEATURES)
    if len(given) == 1 and isinstance(inner, list | dict):
        return _table_row(signature, inner)
    if FEATURES in given and FEATURES not in signature.names:
        return _wrapped_wrongly(given)
    return named_row(signature, given)


def _wrapped_wrongly(given: dict[str, Any]) -> Row:
    extra = [name for name in given if name != FEATURES]
    if extra:
        raise InputError(
            f"Beside '{FEATURES}' the row holds {_listed(extra)}.",
            field=extra[0],
            expected=f"'{FEATURES}' alone",
        )
    raise InputError(
        f"'{FEATURES}' is {_kind(given[FEATURES])}.",
        field=FEATURES,
        expected="a list of values or an object of named values",
    )


def _tensor_row(tensor: Tensor, given: Any) -> Row:
    expected = f"{tensor.size} numbers, flat or nested as {list(tensor.shape)}"
    if isinstance(given, dict):
        keys = [k for k in (tensor.name, FEATURES) if k in given]
        if len(keys) != 1 or len(given) != 1:
            extra = [k for k in given if k not in (tensor.name, FEATURES)]
            raise InputError(
                f"The row holds {_listed(list(given)) or 'nothing'}.",
                field=extra[0] if extra else tensor.name,
                expected=f"'{tensor.name}' alone: {expected}",
            )
        given = given[keys[0]]
    if not isinstance(given, list):
        raise InputError(
            f"'{tensor.name}' is {_kind(given)}.", field=tensor.name, expected=expected
        )
    shape = _shape(given)
    if shape not in _accepted_shapes(tensor):
        raise InputError(
            f"'{tensor.name}' has the shape {list(shape)}.", field=tensor.name, expected=expected
        )
    return _numbers(tensor, given, shape)


def _accepted_shapes(tensor: Tensor) -> set[tuple[int, ...]]:
    """Flat, as it is, and as it is without axes of length one."""
    squeezed = tuple(n for n in tensor.shape if n != 1)
    return {(tensor.size,), tensor.shape, squeezed}


def _shape(nested: Any) -> tuple[int, ...]:
    """The lengths along the first elements; whether all agree is seen when flattening."""
    shape: list[int] = []
    while isinstance(nested, list) and len(shape) < 32:
        shape.append(len(nested))
        nested = nested[0] if nested else None
    return tuple(shape)


def _numbers(tensor: Tensor, given: list[Any], shape: tuple[int, ...]) -> Row:
    column = Column(tensor.name, "number")
    flat = []
    for index, value in _leaves(given, shape, ()):
        place = tensor.name + "".join(f"[{i}]" for i in index)
        if isinstance(value, list) != (len(index) < len(shape)):
            raise InputError(
                f"'{place}' is {_kind(value)}.",
                field=tensor.name,
                expected=f"a regular list of shape {list(shape)}",
            )
        try:
            flat.append(coerce(column, value))
        except InputError as error:
            raise InputError(
                f"'{place}'" + error.detail.removeprefix(f"'{tensor.name}'"),
                field=tensor.name,
                expected=error.expected,
            ) from error
    return flat


def _leaves(
    nested: Any, shape: tuple[int, ...], index: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Every innermost value with its index; a list of the wrong length comes as a leaf itself."""
    depth = len(index)
    if depth == len(shape) or not isinstance(nested, list) or len(nested) != shape[depth]:
        yield index, nested
        return
    for i, item in enumerate(nested):
        yield from _leaves(item, shape, (*index, i))


def _listed_value(signature: Signature, i: int, column: Column, value: Any) -> Value:
    try:
        return coerce(column, value)
    except InputError as error:
        raise InputError(
            f"{FEATURES}[{i}], {error.detail}",
            field=column.name,
            expected=error.expected,
            remedy=f"A list is in the order {_listed(signature.names)}.",
        ) from error


def _wrong_names(signature: Signature, missing: list[str], unknown: list[str]) -> InputError:
    parts = []
    if missing:
        parts.append(f"Missing: {_listed(missing)}.")
    if unknown:
        parts.append(f"Unknown: {_listed(unknown)}.")
    return InputError(
        " ".join(parts),
        field=(missing or unknown)[0],
        expected=f"the fields {_listed(signature.names)}",
        remedy=None if not missing else "Give null where a value is not known, if it may be.",
    )


def _forms(signature: Signature) -> str:
    if signature.tensor is not None:
        return f'{{"{signature.tensor.name}": [...]}} or {{"{INSTANCES}": [...]}}'
    return (
        f'{{"{FEATURES}": [...]}}, {{"{FEATURES}": {{name: value}}}}, named fields, or'
        f' {{"{INSTANCES}": [...]}}'
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:80]}'" for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
