"""Limits on the rows and cells of one body, checked before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from tidemill.errors import InputError, TooLargeError

#: A JSON string, so that commas within texts do not count.
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


class BodyLimits(msgspec.Struct, frozen=True):
    """The most rows of one body, and the most cells: rows times columns, sent or needed."""

    rows: int
    cells: int

    def check_json(self, body: bytes) -> None:
        """Refuse a JSON text with too many values, without building them: each needs a comma.

        Raises:
            TooLargeError: There are more values than cells allowed.
        """
        if len(body) <= self.cells or body.count(b",") < self.cells:
            return
        self.check(1, STRING.sub(b"", body).count(b","))

    def check(self, rows: int, columns: int = 1, *, field: str | None = None) -> None:
        """Refuse a table that is too large.

        Raises:
            TooLargeError: It has more rows or cells than allowed.
        """
        if rows > self.rows:
            raise TooLargeError(
                f"The body has {rows} rows." if rows < 1 << 53 else "The body has too many rows.",
                field=field,
                expected=f"at most {self.rows} rows",
                remedy="Send fewer rows at once, or raise TIDEMILL_MAX_ROWS.",
            )
        if rows * columns > self.cells:
            raise TooLargeError(
                f"The body has more than {self.cells} cells.",
                field=field,
                expected=f"at most {self.cells} cells (rows times columns)",
                remedy="Send fewer rows or columns at once, or raise TIDEMILL_MAX_CELLS.",
            )


def refuse_repeated(names: Iterable[str]) -> None:
    """Refuse a table in which a name occurs twice.

    Raises:
        InputError: A name does.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"The table has several columns '{name[:80]}'.", field=name[:80])
        seen.add(name)
