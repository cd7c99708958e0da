"""Hashes of a table's contents: one for each row, and one fingerprint for the whole table.

Both depend on the values alone, not on the types in which pandas stores them: an integer has the
same hash as int64, float32 or float64, and a text the same in any of pandas' text types.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types


def row_hashes(frame: pd.DataFrame) -> npt.NDArray[np.uint64]:
    """One hash for each row [rows]: equal for equal rows, and the same on every machine."""
    plain = pd.DataFrame({name: _plain(frame[name]) for name in frame.columns}, copy=False)
    return np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)


def seeded_row_hashes(frame: pd.DataFrame, seed: int) -> npt.NDArray[np.uint64]:
    """A pseudo-random number for each row [rows], determined by the row's contents and the seed.

    A row gets the same number whatever its position and the other rows. Equal rows get different
    numbers: the first of them always the same one, the second, and so on.
    """
    hashes = pd.Series(row_hashes(frame))
    occurrence = hashes.groupby(hashes).cumcount().to_numpy(dtype="uint64")
    salt = int.from_bytes(hashlib.sha256(f"split {seed}".encode()).digest()[:8], "little")
    return pd.util.hash_array((hashes.to_numpy() + occurrence) ^ np.uint64(salt))


def fingerprint(frame: pd.DataFrame) -> str:
    """The SHA-256 of the column names and the rows, independent of the order of the rows."""
    digest = hashlib.sha256("\x1f".join(map(str, frame.columns)).encode())
    digest.update(np.sort(row_hashes(frame)).astype("<u8").tobytes())
    return digest.hexdigest()


def _plain(series: pd.Series[Any]) -> pd.Series[Any]:
    if types.is_numeric_dtype(series.dtype) or types.is_bool_dtype(series.dtype):
        return series.astype("float64") + 0.0  # -0.0 becomes 0.0, for older pandas
    return series.astype(object)
