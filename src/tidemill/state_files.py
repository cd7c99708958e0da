"""Reading the JSON files that keep a process's state, so that damage is never read as "nothing".

With defaults for every field, `{}` would say that there is no model and no key. See decision 203.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_state(data: bytes, kind: type[T], required: Collection[str] = ()) -> T:
    """Return what a state file says.

    Args:
        required: Fields that must be there although they have defaults in memory.

    Raises:
        ValueError: The data is not such a file, or lacks a field.
    """
    try:
        if required:
            present = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            missing = [name for name in required if name not in present]
            if missing:
                raise ValueError(f"it has no '{missing[0]}'")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
