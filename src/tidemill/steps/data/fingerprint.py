"""What a table holds, as numbers: one hash a row, one fingerprint for the whole.

Both depend on the values alone, not on how pandas happens to store them: a whole number counts the
same as int64, float32 or float64, and a text the same in any of pandas' text types.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types


def row_hashes(frame: pd.DataFrame) -> npt.NDArray[np.uint64]:
    """One number a row [rows], equal for equal rows, the same on every machine."""
    plain = pd.DataFrame({name: _plain(frame[name]) for name in frame.columns}, copy=False)
    return np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)


def seeded_row_hashes(frame: pd.DataFrame, seed: int) -> npt.NDArray[np.uint64]:
    """A random number a row [rows], decided by what the row holds and by the seed.

    A row draws the same number wherever it stands and whatever rows come beside it. Equal rows
    each draw their own: the first of them, the second, and so on.
    """
    hashes = pd.Series(row_hashes(frame))
    twins = hashes.groupby(hashes).cumcount().to_numpy(dtype="uint64")
    salt = int.from_bytes(hashlib.sha256(f"split {seed}".encode()).digest()[:8], "little")
    return pd.util.hash_array((hashes.to_numpy() + twins) ^ np.uint64(salt))


def fingerprint(frame: pd.DataFrame) -> str:
    """The sha256 of the columns' names and of the rows, whatever order the rows are in."""
    digest = hashlib.sha256("\x1f".join(map(str, frame.columns)).encode())
    digest.update(np.sort(row_hashes(frame)).astype("<u8").tobytes())
    return digest.hexdigest()


def _plain(series: pd.Series[Any]) -> pd.Series[Any]:
    if types.is_numeric_dtype(series.dtype) or types.is_bool_dtype(series.dtype):
        return series.astype("float64") + 0.0  # -0.0 is 0.0, which older pandas hashes apart
    return series.astype(object)
