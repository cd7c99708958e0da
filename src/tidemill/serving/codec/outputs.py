"""A model's outputs for the rows of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tidemill.errors import InputError
from tidemill.signature import Label

Array = np.ndarray[Any, Any]
#: What a runtime returns: label indices, probabilities and values (the arguments of `Outputs`).
RawOutputs = tuple[Array | None, Array | None, Array | None]
FLOAT32 = np.dtype("<f4")
SMALL = 256  # up to this many numbers, plain Python sums faster than a numpy call takes


class Outputs:
    """The outputs of one run; several requests may share it, each with its own range of rows.

    Attributes:
        labels: int64 [rows], indices into the signature's labels; None for a regressor.
        probabilities: [rows, labels]; None if the model returns none.
        values: [rows]; None for a classifier.

    The lists are built on first access. (Not by functools.cached_property, which before Python 3.12
    takes a lock that costs more than the lists.)
    """

    __slots__ = ("_finite", "_floats", "_labels", "_rows", "_values",
                 "labels", "probabilities", "values")  # fmt: skip

    def __init__(
        self, labels: Array | None, probabilities: Array | None, values: Array | None
    ) -> None:
        if labels is None and probabilities is not None:
            labels = probabilities.argmax(axis=1)
        self.labels = labels
        self.probabilities = probabilities
        self.values = values
        self._labels: list[int] | None = None
        self._rows: list[list[float]] | None = None
        self._values: list[float] | None = None
        self._floats: bytes | None = None
        self._finite: bool | None = None

    @property
    def label_list(self) -> list[int]:
        if self._labels is None:
            self._labels = [] if self.labels is None else self.labels.tolist()
        return self._labels

    @property
    def probability_rows(self) -> list[list[float]]:
        if self._rows is None:
            self._rows = [] if self.probabilities is None else self.probabilities.tolist()
        return self._rows

    @property
    def value_list(self) -> list[float]:
        if self._values is None:
            self._values = [] if self.values is None else self.values.tolist()
        return self._values

    def predictions(self, labels: Sequence[Label], start: int, stop: int) -> list[Label]:
        """The predictions of a range of rows, as labels or numbers."""
        if self.labels is None:
            return list(self.value_list[start:stop])
        return [labels[i] for i in self.label_list[start:stop]]

    @property
    def probability_bytes(self) -> bytes:
        """The probabilities of all rows as a little-endian float32 matrix."""
        if self._floats is None:
            probabilities = self.probabilities
            assert probabilities is not None
            if probabilities.dtype is not FLOAT32:  # cheaper than a cast to the same type
                probabilities = probabilities.astype(FLOAT32)
            self._floats = probabilities.tobytes()
        return self._floats

    @property
    def probability_row_bytes(self) -> int:
        """Number of bytes per row in `probability_bytes`; 0 without probabilities."""
        return 0 if self.probabilities is None else 4 * int(self.probabilities.shape[1])

    def check(self, start: int, stop: int) -> None:
        """Check that the model's answers for a range of rows are finite.

        Raises:
            InputError: An answer is not finite, so the inputs lie far outside the training data.
        """
        if self._finite is None:
            self._finite = self._all_finite()
        if self._finite:
            return
        numbers = self.values if self.probabilities is None else self.probabilities
        assert numbers is not None
        bad = ~np.isfinite(numbers[start:stop].reshape(stop - start, -1)).all(axis=1)
        if bad.any():
            row = int(bad.argmax())
            where = f"instances[{row}]: t" if stop - start > 1 else "T"
            raise InputError(
                f"{where}he model has no finite answer for these values.",
                expected="values in the range of the training data",
            )

    def _all_finite(self) -> bool:
        """Test the sum first; it is not finite if a number is not, or if the sum overflows."""
        numbers = self.values if self.probabilities is None else self.probabilities
        if numbers is None:
            return True
        if numbers.size > SMALL:
            return bool(np.isfinite(numbers).all())
        if self.probabilities is None:
            total = sum(self.value_list)
        else:
            total = sum(map(sum, self.probability_rows))
        return total - total == 0.0 or bool(np.isfinite(numbers).all())

    def part(self, start: int, stop: int) -> Outputs:
        """The outputs of a range of rows."""
        return Outputs(
            None if self.labels is None else self.labels[start:stop],
            None if self.probabilities is None else self.probabilities[start:stop],
            None if self.values is None else self.values[start:stop],
        )

    def encode(self) -> bytes:
        """Encode as bytes, for the cache."""
        parts = (self.labels, self.probabilities, self.values)
        return msgspec.msgpack.encode(
            [None if p is None else (p.dtype.str, p.shape, p.tobytes()) for p in parts]
        )


_STORED = msgspec.msgpack.Decoder(list[tuple[str, tuple[int, ...], bytes] | None])


def decode_outputs(stored: bytes) -> Outputs:
    """Decode the result of `Outputs.encode`."""
    parts = [
        None if p is None else np.frombuffer(p[2], p[0]).reshape(p[1])
        for p in _STORED.decode(stored)
    ]
    return Outputs(*parts)
