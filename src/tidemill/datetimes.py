"""Dates and times as people write them, and as models take them: whole seconds since 1970.

Training and serving both convert with `to_seconds`, so that they cannot differ. A column has one
format, which the project states:

    "iso"              2024-05-31, 2024-05-31T12:00:00, without a zone
    "iso zoned"        2024-05-31T12:00:00+02:00 or ...Z, always with a zone
    "seconds"          a number since 1970-01-01 00:00 UTC; so are "milliseconds", "microseconds"
                       and "nanoseconds"
    "%d.%m.%Y %H:%M"   any other order, by the directives of `strptime` in `DIRECTIVES`

Times with a zone are converted to UTC. Times without one are taken as they stand, whatever zone
they are of, so a calendar feature such as the hour is the one written. The two are never mixed: a
column of one refuses values of the other. Every column also accepts ISO 8601 of its sort. Fractions
of a second are dropped. See decision 215.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from functools import lru_cache

ISO, ZONED = "iso", "iso zoned"
EPOCHS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
#: The first and the last second of the years 1 to 9999.
MIN_SECONDS, MAX_SECONDS = -62_135_596_800, 253_402_300_799
#: The directives of a format, and what they match in texts. Names of months are English.
DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d\d", "m": r"\d{1,2}", "d": r"\d{1,2}", "H": r"\d{1,2}",
    "I": r"\d{1,2}", "M": r"\d{1,2}", "S": r"\d{1,2}", "f": r"\d{1,9}", "p": "[AaPp][Mm]",
    "b": "[A-Za-z]{3}", "B": "[A-Za-z]{3,9}",
}  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_MONTH_NUMBERS = {name.lower(): i for i, name in enumerate(MONTHS, 1)} | {
    name[:3].lower(): i for i, name in enumerate(MONTHS, 1)
}
_DAY, _EPOCH_DAY = 86_400, date(1970, 1, 1).toordinal()
_ISO_TEXT = re.compile(
    r"(?P<Y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)"
    r"(?:[T ](?P<H>\d\d):(?P<M>\d\d)(?::(?P<S>\d\d)(?:[.,]\d{1,9})?)?"
    r"(?: ?(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?))?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?", re.ASCII)
_COMPACT = re.compile(r"(?:%[YmdHMS])+")
Moment = str | int | float | date


class DateError(ValueError):
    """A value is no date or time of its column; the text says why, to follow the value."""


def check_format(form: str) -> None:
    """Raise DateError if a format cannot be used."""
    if form in (ISO, ZONED) or form in EPOCHS:
        return
    found = re.findall(r"%(.?)", form)
    if unknown := [each for each in found if each not in DIRECTIVES]:
        raise DateError(f"has the unknown directive %{unknown[0]}")
    month = {"m", "b", "B"} & set(found)
    if not {"Y", "y"} & set(found) or not month or len(set(found)) < len(found):
        raise DateError("does not have a year and a month, each once")
    if ("I" in found) != ("p" in found):
        raise DateError("has one of %I and %p without the other")


def has_zone(form: str) -> bool:
    """Whether a column's values name an instant, and not what a calendar and a clock show."""
    return form == ZONED or form in EPOCHS


def in_words(form: str) -> str:
    """What a column of this format accepts, for error messages."""
    example = shown(1_717_156_800, form)
    if form in EPOCHS:
        return f"{form} since 1970 (UTC) such as {example}"
    if form == ZONED:
        return f"a time with a zone such as {example!r}"
    return f"a date or time without a zone such as {example!r}"


def to_seconds(value: Moment, form: str) -> float:
    """Convert a value of a column of this format to whole seconds since 1970.

    Args:
        value: A text, a number, or Python's own date or datetime.

    Raises:
        DateError: It is not a date or time of this format.
    """
    if isinstance(value, bool):
        raise DateError("is not a date")
    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, int | float):
        if form in EPOCHS:
            return _within(value, EPOCHS[form])
        if not _COMPACT.fullmatch(form) or value != value or not float(value).is_integer():
            raise DateError("is a number")
        value = str(int(value))
    text = value.strip()
    if form in EPOCHS and _NUMBER.fullmatch(text):
        return _within(float(text) if "." in text else int(text), EPOCHS[form])
    if found := _ISO_TEXT.fullmatch(text):
        return _from_iso(found, has_zone(form))
    if form in (ISO, ZONED) or form in EPOCHS:
        raise DateError("is not a date")
    found = _matcher(form).fullmatch(text)
    if found is None:
        raise DateError("is not a date of this format")
    return _instant(found.groupdict())


def shown(seconds: float, form: str) -> str | int:
    """Write a time as a column of this format takes it."""
    if form in EPOCHS:
        return int(seconds) * EPOCHS[form]
    days, rest = divmod(int(seconds), _DAY)
    day = date.fromordinal(days + _EPOCH_DAY)
    hour, minute, second = rest // 3600, rest // 60 % 60, rest % 60
    if form == ZONED:
        return f"{day.isoformat()}T{hour:02}:{minute:02}:{second:02}Z"
    if form == ISO:
        return day.isoformat() + (f"T{hour:02}:{minute:02}:{second:02}" if rest else "")
    parts = {
        "Y": f"{day.year:04}", "y": f"{day.year % 100:02}", "m": f"{day.month:02}",
        "d": f"{day.day:02}", "H": f"{hour:02}", "I": f"{(hour - 1) % 12 + 1:02}",
        "M": f"{minute:02}", "S": f"{second:02}", "f": "0", "p": "PM" if hour >= 12 else "AM",
        "b": MONTHS[day.month - 1][:3], "B": MONTHS[day.month - 1],
    }  # fmt: skip
    return re.sub(r"%(.)", lambda found: parts[found[1]], form)


def _within(value: float, unit: int) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise DateError("is not a finite number")
    seconds = math.floor(value) // unit
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise DateError("is outside the years 1 to 9999")
    return float(seconds)


def _from_iso(found: re.Match[str], zoned: bool) -> float:
    parts = found.groupdict()
    zone = parts.pop("zone")
    if zoned and zone is None:
        raise DateError("has no zone")
    if not zoned and zone is not None:
        raise DateError("has a zone, which the times of this column do not have")
    return _within(_instant(parts) - (_offset(zone) if zone else 0), 1)


def _offset(zone: str) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].removeprefix(":") or 0)
    if hours > 15 or minutes > 59:
        raise DateError("has an offset that no zone has")
    return (3600 * hours + 60 * minutes) * (-1 if zone[0] == "-" else 1)


def _instant(parts: dict[str, str | None]) -> float:
    try:
        day = date(_year(parts), _month(parts), int(parts.get("d") or 1))
        hour = _hour(parts)
        clock = datetime(1, 1, 1, hour, int(parts.get("M") or 0), int(parts.get("S") or 0))
    except ValueError as error:
        raise DateError("is not a day or time that exists") from error
    days = day.toordinal() - _EPOCH_DAY
    return float(days * _DAY + clock.hour * 3600 + clock.minute * 60 + clock.second)


def _year(parts: dict[str, str | None]) -> int:
    if parts.get("Y"):
        return int(parts["Y"] or 0)
    short = int(parts["y"] or 0)
    return short + (1900 if short >= 69 else 2000)  # as POSIX and strptime do


def _month(parts: dict[str, str | None]) -> int:
    name = parts.get("b") or parts.get("B")
    return _MONTH_NUMBERS.get(name.lower(), 0) if name else int(parts["m"] or 0)


def _hour(parts: dict[str, str | None]) -> int:
    if not parts.get("p"):
        return int(parts.get("H") or 0)
    hour = int(parts["I"] or 0)
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + (12 if (parts["p"] or "").lower() == "pm" else 0)


@lru_cache(maxsize=256)
def _matcher(form: str) -> re.Pattern[str]:
    # Without separators, a day of one digit would be ambiguous.
    single = DIRECTIVES | (dict.fromkeys("mdHMS", r"\d\d") if _COMPACT.fullmatch(form) else {})
    parts = re.split(r"%(.)", form)
    pattern = "".join(
        f"(?P<{part}>{single[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
    return re.compile(pattern, re.ASCII)
