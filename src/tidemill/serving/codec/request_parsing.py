"""Parses native JSON bodies in every accepted form; each error names the field and the remedy.

One row is a list in the order of the signature or an object of named fields, either at the top
level or under `features`. A tensor is a list, flat or nested, under `features` or its own name.
Several rows are a list of those under `instances`. If a name occurs twice, the last value counts,
as in most JSON parsers. `tidemill.serving.codec.row_decoder` parses the common forms faster and
leaves the rest to this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.errors import InputError, MalformedError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.values import coerce
from tidemill.signature import Column, Signature, Tensor, Value

Row = Sequence[Value]
FEATURES = "features"
INSTANCES = "instances"


def read_json(body: bytes) -> Any:
    """Decode a body into plain values.

    Raises:
        MalformedError: The body is not UTF-8 or not JSON, is nested too deeply, or contains a
            number that no float can hold.
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
            f"The body is not valid JSON: {error}.",
            remedy="JSON has no NaN or Infinity: send null for a missing value.",
        ) from error


def read_rows(
    signature: Signature, body: bytes, limits: BodyLimits | None = None
) -> tuple[list[Row], bool]:
    """Parse a body in any form: its rows, and whether they came under `instances`.

    Raises:
        InputError: A row does not fit the signature; names the row and the field.
        MalformedError: As of `read_json`.
        TooLargeError: There are too many rows.
    """
    payload = read_json(body)
    if not isinstance(payload, dict):
        raise InputError(
            f"The body is {_kind(payload)}.",
            expected="an object",
            remedy=_accepted_forms(signature),
        )
    if _has_instances(signature, payload):
        return _instances(signature, payload, limits), True
    return [read_row(signature, payload)], False


def read_row(signature: Signature, given: Any, where: str = "") -> Row:
    """Parse one row in any form.

    Args:
        where: Prefix of error messages, such as `instances[3]`.

    Raises:
        InputError: The row does not fit the signature; names the field.
    """
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
    """Parse a row of named fields: every column, and nothing else.

    Raises:
        InputError: A field is missing, unknown, or not what its column takes.
    """
    missing = [c.name for c in signature.columns if c.name not in fields]
    if missing or len(fields) > len(signature.columns):
        known = set(signature.names)
        raise _wrong_names(signature, missing, [name for name in fields if name not in known])
    return [coerce(column, fields[column.name]) for column in signature.columns]


def listed_row(signature: Signature, values: Sequence[Any]) -> Row:
    """Parse a row of values in the order of the signature.

    Raises:
        InputError: The number of values is wrong, or one is not what its column takes.
    """
    columns = signature.columns
    if len(values) != len(columns):
        raise InputError(
            f"'{FEATURES}' has {len(values)} values, but the model takes {len(columns)}.",
            field=FEATURES,
            expected=f"{len(columns)} values: {_listed(signature.names)}",
        )
    return [_listed_value(signature, i, column, values[i]) for i, column in enumerate(columns)]


def _has_instances(signature: Signature, payload: dict[str, Any]) -> bool:
    return INSTANCES in payload and (
        INSTANCES not in signature.names or isinstance(payload[INSTANCES], list)
    )


def _instances(
    signature: Signature, payload: dict[str, Any], limits: BodyLimits | None
) -> list[Row]:
    given = payload[INSTANCES]
    if len(payload) > 1:
        extra = [name for name in payload if name != INSTANCES]
        raise InputError(
            f"The body contains {_listed(extra)} in addition to '{INSTANCES}'.",
            field=extra[0],
            expected=f"'{INSTANCES}' alone",
        )
    if not isinstance(given, list) or not given:
        what = "empty" if given == [] else _kind(given)
        raise InputError(
            f"'{INSTANCES}' is {what}.", field=INSTANCES, expected="a list of at least one row"
        )
    if limits is not None:
        limits.check(len(given), len(signature.columns) or 1, field=INSTANCES)
    return [read_row(signature, row, f"{INSTANCES}[{i}]") for i, row in enumerate(given)]


def _table_row(signature: Signature, given: Any) -> Row:
    if isinstance(given, list):
        return listed_row(signature, given)
    if not isinstance(given, dict):
        raise InputError(f"A row is {_kind(given)}.", expected=_accepted_forms(signature))
    inner = given.get(FEATURES)
    if len(given) == 1 and isinstance(inner, list | dict):
        return _table_row(signature, inner)
    if FEATURES in given and FEATURES not in signature.names:
        return _refuse_wrapper(given)
    return named_row(signature, given)


def _refuse_wrapper(given: dict[str, Any]) -> Row:
    extra = [name for name in given if name != FEATURES]
    if extra:
        raise InputError(
            f"The row contains {_listed(extra)} in addition to '{FEATURES}'.",
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
                f"The row contains {_listed(list(given)) or 'nothing'}.",
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
    """Flat, as declared, and as declared without axes of length one."""
    squeezed = tuple(n for n in tensor.shape if n != 1)
    return {(tensor.size,), tensor.shape, squeezed}


def _shape(nested: Any) -> tuple[int, ...]:
    """The lengths along the first elements; flattening checks that the others agree."""
    shape: list[int] = []
    while isinstance(nested, list) and len(shape) < 32:
        shape.append(len(nested))
        nested = nested[0] if nested else None
    return tuple(shape)


def _numbers(tensor: Tensor, given: list[Any], shape: tuple[int, ...]) -> Row:
    column = Column(tensor.name, "number")
    flat = []
    for index, value in _leaves(given, shape, ()):
        path = tensor.name + "".join(f"[{i}]" for i in index)
        if isinstance(value, list) != (len(index) < len(shape)):
            raise InputError(
                f"'{path}' is {_kind(value)}.",
                field=tensor.name,
                expected=f"a regular list of shape {list(shape)}",
            )
        try:
            flat.append(coerce(column, value))
        except InputError as error:
            raise InputError(
                f"'{path}'" + error.detail.removeprefix(f"'{tensor.name}'"),
                field=tensor.name,
                expected=error.expected,
            ) from error
    return flat


def _leaves(
    nested: Any, shape: tuple[int, ...], index: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield every innermost value with its index; a list of the wrong length is itself a leaf."""
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
            remedy=f"Give the values in the order {_listed(signature.names)}.",
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
        remedy="Send null for an unknown value, if the column allows it." if missing else None,
    )


def _accepted_forms(signature: Signature) -> str:
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
    """The type of a JSON value, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
