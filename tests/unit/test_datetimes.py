"""Dates and times as text, against Python's own and pandas' readings of the same text."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.datetimes import DateError, check_format, shown, to_seconds

EPOCH = dt.datetime(1970, 1, 1)
ZONES = [ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Asia/Kathmandu")]
MOMENTS = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0)
)
NUMERIC = ["%d.%m.%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%Y%m%d%H%M%S", "%b %d, %Y %H:%M:%S"]


def seconds(moment: dt.datetime) -> float:
    return (moment - EPOCH).total_seconds()


@given(MOMENTS, st.sampled_from(NUMERIC))
def test_formats_read_as_strptime_reads_them(moment: dt.datetime, form: str) -> None:
    text = moment.strftime(form)
    assert dt.datetime.strptime(text, form) == moment
    assert to_seconds(text, form) == seconds(moment)
    assert to_seconds(shown(seconds(moment), form), form) == seconds(moment)


@given(MOMENTS)
def test_iso_reads_as_pandas_reads_it(moment: dt.datetime) -> None:
    for text in (moment.isoformat(), moment.isoformat(" "), moment.isoformat() + ".987654321"):
        assert to_seconds(text, "iso") == seconds(moment)
        assert pd.Timestamp(text.split(".")[0]) == moment
    assert to_seconds(shown(seconds(moment), "iso"), "iso") == seconds(moment)


@given(st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2036, 1, 1)), st.sampled_from(ZONES))
def test_zones_and_daylight_saving_read_as_python_reads_them(
    moment: dt.datetime, zone: dt.tzinfo
) -> None:
    local = moment.replace(microsecond=0, tzinfo=dt.UTC).astimezone(zone)
    expected = local.timestamp()
    assert to_seconds(local.isoformat(), "iso zoned") == expected
    assert to_seconds(local, "iso zoned") == expected
    assert to_seconds(shown(expected, "iso zoned"), "iso zoned") == expected
    assert to_seconds(int(expected) * 1000 + 999, "milliseconds") == expected


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        ("2024-05-31", "iso", 1_717_113_600),
        (dt.date(2024, 5, 31), "iso", 1_717_113_600),
        (20240531, "%Y%m%d", 1_717_113_600),
        (20240531.0, "%Y%m%d", 1_717_113_600),
        ("2024-05", "%Y-%m", 1_714_521_600),
        ("1.6.2024", "%d.%m.%Y", 1_717_200_000),
        ("31-may-24", "%d-%b-%y", 1_717_113_600),
        ("01.01.69", "%d.%m.%y", -31_536_000),
        ("12/31/2024 12:30 am", "%m/%d/%Y %I:%M %p", 1_735_605_000),
        (-0.5, "seconds", -1),
        (-1, "milliseconds", -1),
        ("9999-12-31T23:59:59", "iso", 253_402_300_799),
        ("0001-01-01", "iso", -62_135_596_800),
    ],
)
def test_examples(value: str | float | dt.date, form: str, expected: float) -> None:
    assert to_seconds(value, form) == expected


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("2024-13-01", "iso"),
        ("2024-05-31T25:00", "iso"),
        ("2024-05-31T23:59:60", "iso"),
        ("２０２４-05-31", "iso"),
        ("0001-01-01T00:00:00+01:00", "iso zoned"),
        ("9999-12-31T23:59:59-01:00", "iso zoned"),
        ("2024111", "%Y%m%d"),
        (2024.5, "%Y%m%d"),
        (float("nan"), "%Y%m%d"),
        (float("inf"), "seconds"),
        (10**30, "seconds"),
        (True, "seconds"),
        ("13:00 PM 1/1/2024", "%I:%M %p %d/%m/%Y"),
        ("30 Foo 2024", "%d %b %Y"),
        ("", "%d.%m.%Y"),
    ],
)
def test_what_is_no_moment_is_refused(value: str | float, form: str) -> None:
    with pytest.raises(DateError):
        to_seconds(value, form)


@pytest.mark.parametrize(
    "form", ["", "date", "%d.%m", "%Y-%j", "%Y-%m-%d-%d", "%Y-%m-%d %I", "%Y %m %p", "%Y-%m-%"]
)
def test_formats_that_cannot_be_read_are_refused(form: str) -> None:
    with pytest.raises(DateError):
        check_format(form)
