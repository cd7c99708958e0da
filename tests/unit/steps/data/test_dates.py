"""Columns of dates: which are recognised, how they are stated, and what is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from tidemill.errors import DataError, ProjectError
from tidemill.project import Candidate, Project, load_project
from tidemill.signature import Column
from tidemill.steps.data.clean import clean
from tidemill.steps.data.date_formats import date_formats
from tidemill.steps.data.prepare import prepare
from tidemill.steps.data.scaffold import render_project
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.data.table_spec import infer_table_spec

DAYS = pd.date_range("2024-01-05", periods=40, freq="D")
SECONDS = (DAYS - pd.Timestamp("1970-01-01")) // pd.Timedelta("1s")


def project(frame: pd.DataFrame, **settings: Any) -> Project:
    return Project("p", lambda: frame, "y", [Candidate("a", Ridge)], **settings)


def frame(when: Any) -> pd.DataFrame:
    return pd.DataFrame({"when": when, "y": np.arange(40) % 7 / 3})


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        (DAYS.strftime("%Y-%m-%d"), "x", ("iso",)),
        (DAYS.strftime("%Y-%m-%dT%H:%M:%S"), "x", ("iso",)),
        (DAYS.strftime("%Y-%m-%dT%H:%M:%SZ"), "x", ("iso zoned",)),
        (DAYS.strftime("%d.%m.%Y"), "x", ("%d.%m.%Y",)),
        (DAYS.strftime("%d.%m.%y"), "x", ("%d.%m.%y",)),
        (DAYS.strftime("%d/%m/%Y %H:%M"), "x", ("%d/%m/%Y %H:%M",)),
        (DAYS.strftime("%m/%d/%Y %I:%M %p"), "x", ("%m/%d/%Y %I:%M %p",)),
        (DAYS.strftime("%b %d, %Y"), "x", ("%b %d, %Y",)),
        (DAYS.strftime("%d-%b-%y"), "x", ("%d-%b-%y",)),
        (["03/04/2024", "05/06/2024"], "x", ("%d/%m/%Y", "%m/%d/%Y")),
        (["03/03/2024", "04/04/2024"], "x", ("%d/%m/%Y",)),
        (["2024-05", "2023-11"], "x", ("%Y-%m",)),
        (["May 2024", "May 2023"], "x", ("%b %Y",)),
        (DAYS.strftime("%Y%m%d").astype(int), "x", ("%Y%m%d",)),
        ([20240101, 20240102], "x", ()),
        ([20240101, 20240102], "order_date", ("%Y%m%d",)),
        ([20240101, 20249999], "order_date", ()),
        (SECONDS, "created_at", ("seconds",)),
        (SECONDS, "createdAt", ("seconds",)),
        (SECONDS * 1000, "timestamp", ("milliseconds",)),
        (SECONDS * 10**9, "event_ts", ("nanoseconds",)),
        (SECONDS, "account", ()),
        ([3.5, 1.7e9], "time", ()),
        ([12, 700], "response_time", ()),
        (["1.2.13", "1.10.3"], "version", ()),
        (["2024-05-31", "unknown"], "x", ()),
        (["2024-05-31", "2024-05-31T00:00:00Z"], "x", ()),
        (["12", "13"], "x", ()),
        (DAYS, "x", ("iso",)),
        (DAYS.tz_localize("UTC"), "x", ("iso zoned",)),
        (DAYS.date, "x", ("iso",)),
        ([[1], [2]], "date", ()),
        ([1.5, "a"], "date", ()),
        ([True, False], "date", ()),
        ([None, None], "date", ()),
    ],
)
def test_formats_are_recognised_by_evidence(
    values: Any, name: str, expected: tuple[str, ...]
) -> None:
    assert date_formats(pd.Series(list(values), name=name)) == expected


def test_a_new_project_states_dates_and_the_file_can_be_loaded(tmp_path: Path) -> None:
    table = frame(DAYS.strftime("%d.%m.%Y")).assign(
        either=(["03/04/2024", "05/06/2024"] * 20), made_at=SECONDS, n=range(40, 0, -1)
    )
    spec = infer_table_spec(table, "data/t.csv", target="y", options={})
    assert spec.dates == {"when": "%d.%m.%Y", "made_at": "seconds"}
    assert spec.drop == {
        "either": 'dates of the format "%d/%m/%Y" or "%m/%d/%Y": state it in `dates`'
    }
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data/t.csv", index=False)
    (tmp_path / "project.py").write_text(render_project("p", spec), "utf-8")
    made = load_project(tmp_path / "project.py")
    assert made.dates == spec.dates
    assert made.drift.ignore == ("when", "made_at")
    data = prepare(made)
    assert data.kinds["when"] == data.kinds["made_at"] == "datetime"
    assert data.frame["when"].tolist() == list(SECONDS)
    assert data.frame["made_at"].tolist() == list(SECONDS)


@pytest.mark.parametrize(
    ("when", "stated", "form"),
    [
        (DAYS, {}, "iso"),
        (DAYS.tz_localize("Europe/Berlin").tz_convert("UTC"), {}, "iso zoned"),
        (DAYS.tz_localize("UTC").tz_convert("Asia/Tokyo"), {"when": "seconds"}, "seconds"),
        (DAYS.date, {}, "iso"),
        (DAYS.to_period("D"), {}, "iso"),
        (DAYS.as_unit("ns"), {"when": "%d.%m.%Y"}, "%d.%m.%Y"),
        (DAYS.strftime("%Y-%m-%d"), {"when": "iso"}, "iso"),
    ],
)
def test_every_type_of_date_becomes_the_same_seconds(
    when: Any, stated: dict[str, str], form: str
) -> None:
    given = frame(when)
    given.loc[3, "when"] = None
    found = clean(given, project(given, dates=stated))
    shift = 3600 if "Berlin" in str(getattr(when, "tz", "")) else 0
    expected = [float(s) - shift for s in SECONDS]
    if isinstance(when, pd.DatetimeIndex) and when.tz is not None and not stated:
        expected = [t.timestamp() for t in when]
    got = found.frame["when"].tolist()
    assert got[3] != got[3]
    assert got[:3] + got[4:] == expected[:3] + expected[4:]
    made = infer_signature(
        found.frame[["when"]], found.frame["y"], "regression", project(given), found.kinds,
        found.dates,
    )  # fmt: skip
    assert made.columns == (Column("when", "datetime", nullable=True, format=form),)
    assert made.stored.columns == (Column("when", "number", nullable=True),)


@pytest.mark.parametrize(
    ("when", "form", "message"),
    [
        (["2024-05-31"] * 39 + ["soon"], "iso", "'soon' in 1 rows, which is not a date"),
        (DAYS.tz_localize("UTC"), "iso", "have a zone"),
        (DAYS, "iso zoned", "have no zone"),
        (list(range(40)), "iso", "is a number"),
        ([[1]] * 40, "iso", "contains lists"),
        (np.array([2**40] * 40, "datetime64[s]"), "iso", "outside the years"),
    ],
)
def test_values_of_another_format_are_refused_by_name(when: Any, form: str, message: str) -> None:
    given = pd.DataFrame({"when": pd.Series(when), "y": np.arange(40.0)})
    with pytest.raises(DataError, match=message) as caught:
        clean(given, project(given, dates={"when": form}))
    assert caught.value.field == "when"


def test_recorded_rows_are_joined_as_they_are_and_others_are_converted() -> None:
    given = frame(DAYS.strftime("%Y-%m-%d"))
    made = project(given, dates={"when": "iso"})
    for when in ([1_700_000_000.0, np.nan], ["2023-11-14T22:13:20", None]):
        extra = pd.DataFrame({"when": when, "y": [1.0, 2.0]})
        last = clean(given, made, extra_rows=extra).frame["when"].tolist()[-2:]
        assert last[0] == 1_700_000_000
        assert last[1] != last[1]


def test_dates_that_are_not_stated_are_named_in_a_warning() -> None:
    given = frame(DAYS.strftime("%Y-%m-%d"))
    (warning,) = clean(given, project(given)).warnings
    assert "set dates={'when': 'iso'} in the project" in warning.text


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"y": "iso"}, "target 'y' is also in `dates`"),
        ({"when": "%d.%m"}, "does not have a year"),
        ({"when": "unix"}, "does not have a year"),
    ],
)
def test_a_project_checks_its_dates(dates: dict[str, str], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        project(frame(DAYS), dates=dates)


def test_a_date_column_must_exist() -> None:
    given = frame(DAYS)
    with pytest.raises(DataError, match="'wehn' is not in the data"):
        clean(given, project(given, dates={"wehn": "iso"}))
    dropped = given.assign(z=1.0 * np.arange(40) ** 2)
    made = project(dropped, dates={"when": "iso"}, drop=["when"])
    assert clean(dropped, made).dates == {}


def test_python_datetimes_with_zones_are_zoned() -> None:
    when = [
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=i % 3))) for i in range(40)
    ]
    found = clean(frame(pd.Series(when, dtype=object)), project(frame(when)))
    assert found.dates == {"when": "iso zoned"}
    assert found.frame["when"].tolist()[:2] == [1_704_067_200.0, 1_704_063_600.0]
