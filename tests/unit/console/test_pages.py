"""The parsing and formatting of pages: forms, files, filters, settings, logs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tidemill.console import log_files
from tidemill.console.pages import activity, predict, settings, sign_in, training
from tidemill.errors import InputError, RequestError, TooLargeError
from tidemill.project import Candidate
from tidemill.settings import Settings, describe_settings
from tidemill.stores.database.queries import ResultPage

TABLE: dict[str, Any] = {
    "inputs": [
        {"name": "age", "kind": "number", "nullable": True},
        {"name": "plan", "kind": "text", "nullable": False},
    ],
    "labels": ["yes", "no"],
}
IMAGE: dict[str, Any] = {"inputs": [{"name": "image", "shape": [1, 2, 2], "dtype": "float32"}]}


def test_csv_rows_are_in_the_order_of_the_signature() -> None:
    rows = predict.read_csv('\ufeffplan,id,age\r\nBasic,1,52\r\n"a, b",2,\r\n'.encode(), TABLE)
    assert rows == [[52.0, "Basic"], [None, "a, b"]]


def test_a_line_of_another_length_is_an_error_in_its_place() -> None:
    rows = predict.read_csv(b"age,plan\n1,x\n1\n1,x,y\n", TABLE)
    assert [isinstance(row, str) for row in rows] == [False, True, True]


def test_numbers_that_json_cannot_express_stay_text() -> None:
    assert predict.read_csv(b"age,plan\ninf,x\n", TABLE) == [["inf", "x"]]


def test_each_value_of_an_image_is_a_column() -> None:
    assert predict.column_names(IMAGE) == ["image0", "image1", "image2", "image3"]
    rows = predict.read_csv(b"image0,image1,image2,image3\n0,0.5,1,0\n", IMAGE)
    assert rows == [[0.0, 0.5, 1.0, 0.0]]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="no column 'plan'") as refused:
        predict.read_csv(b"age\n1\n", TABLE)
    assert refused.value.field == "plan"


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        rows = predict.read_csv(body, TABLE)
    except InputError:
        return
    assert all(isinstance(row, str) or len(row) == 2 for row in rows)


@given(st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.floats(-1e9, 1e9))))
def test_the_curl_command_contains_any_row(row: dict[str, Any]) -> None:
    body = {"features": row}
    line = predict.snippets("m", body)["curl"].replace("\\\n", " ")
    assert json.loads(shlex.split(line)[-1]) == body


def test_only_grey_pictures_are_drawn() -> None:
    shape = lambda *sides: {"name": "x", "shape": list(sides)}  # noqa: E731
    assert predict.image_of(shape(1, 28, 28)) == {"height": 28, "width": 28}
    assert predict.image_of(shape(8, 8)) == {"height": 8, "width": 8}
    assert predict.image_of(shape(3, 28, 28)) is None
    assert (
        predict.image_of(
            shape(
                30,
            )
        )
        is None
    )
    assert predict.image_of(None) is None


def test_a_candidates_form_starts_with_searched_parameters() -> None:
    candidate = Candidate("lr", LogisticRegression, {"max_iter": 200}, search={"C": [0.1, 1.0]})
    fields = training.fields_of(candidate, {"set.lr.C": "7"})
    assert [field.label for field in fields[:2]] == ["C", "max_iter"]
    assert fields[0].usual == "searched: 0.1, 1.0"
    assert fields[0].given == "7"
    assert fields[1].usual == "200"
    assert len({field.name for field in fields}) == len(fields)


@pytest.mark.parametrize("text", ["0", "x", "-1", "10001", "1.5"])
def test_the_number_of_trials_is_a_bounded_integer(text: str) -> None:
    with pytest.raises(RequestError, match="is not a valid"):
        training.parse_trials(text)


def test_exported_cells_are_not_formulas() -> None:
    pages = lambda cursor, limit: ResultPage([{"time": 1.5, "reason": "=1+1", "n": {"a": 1}}])  # noqa: E731
    chunks = activity._as_csv(("time", "reason", "n"), activity._all(pages))
    assert b"".join(chunks) == b'time,reason,n\r\n1.5,\'=1+1,"{""a"": 1}"\r\n'


def test_times_in_filters() -> None:
    assert activity.parse_time("1970-01-02") == 86400
    assert activity.parse_time("1970-01-01T01:00+01:00") == 0
    assert activity.parse_time("") is None
    with pytest.raises(RequestError, match="not a date or time"):
        activity.parse_time("yesterday")


@pytest.mark.parametrize(
    ("wanted", "goes"),
    [
        ("/console/jobs?state=failed", "/console/jobs?state=failed"),
        ("https://elsewhere.example", "/console/"),
        ("//elsewhere.example", "/console/"),
        ("/console/\\elsewhere", "/console/"),
        ("/console/sign-out", "/console/"),
        ("/elsewhere", "/console/"),
        ("", "/console/"),
    ],
)
def test_signing_in_never_redirects_to_another_site(wanted: str, goes: str) -> None:
    assert sign_in.safe_next_path(wanted) == goes


def test_passwords_in_urls_are_not_shown() -> None:
    shown = settings.without_password("postgresql+psycopg://me:secret@db:5432/x")
    assert shown == "postgresql+psycopg://me:***@db:5432/x"
    assert settings.without_password("redis://cache:6379/0") == "redis://cache:6379/0"


def test_settings_show_their_sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_API_RATE_LIMIT", "5/second")
    secret = home.parent / "secret"
    secret.write_text("hush")
    monkeypatch.setenv("TIDEMILL_AUDIT_SECRET_FILE", str(secret))
    Path("tidemill.toml").write_text('log_level = "WARNING"\n')
    found = {row["variable"]: row for row in describe_settings(Settings(home=home))}
    assert found["TIDEMILL_API_RATE_LIMIT"]["source"] == "TIDEMILL_API_RATE_LIMIT"
    assert found["TIDEMILL_LOG_LEVEL"]["source"] == "tidemill.toml"
    assert found["TIDEMILL_LIMITS_URL"]["source"] == "default"
    assert found["TIDEMILL_AUDIT_SECRET"]["source"] == "TIDEMILL_AUDIT_SECRET_FILE"
    assert "hush" not in found["TIDEMILL_AUDIT_SECRET"]["value"]


def test_log_lines_are_found_by_text_level_and_job(tmp_path: Path) -> None:
    lines = [
        {"event": "began", "level": "info", "timestamp": "2026-01-01T10:00:00Z", "job_id": "j1"},
        {"event": "broke", "level": "error", "timestamp": "2026-01-01T10:00:01Z", "job_id": "j2"},
    ]
    text = "\n".join([*map(json.dumps, lines), "a library's print", "[1, 2]"])
    (tmp_path / "worker-1.log").write_text(text)
    found = log_files.lines(tmp_path, "worker-1.log")
    assert [line.event for line in found] == ["[1, 2]", "a library's print", "broke", "began"]
    assert [x.event for x in log_files.lines(tmp_path, "worker-1.log", level="error")] == ["broke"]
    assert [x.event for x in log_files.lines(tmp_path, "worker-1.log", text="BEGAN")] == ["began"]
    assert [x.event for x in log_files.lines_of_job(tmp_path, "j2", 9)] == ["broke"]


def test_files_outside_the_log_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "secret.log").write_text("hush")
    assert log_files.lines(tmp_path / "logs", "../secret.log") == []


def test_a_file_with_too_many_columns_is_refused_before_it_is_read() -> None:
    info = {"inputs": [{"name": "a", "kind": "number"}]}
    wide = b"a," + b",".join(b"b%d" % i for i in range(1_000_001)) + b"\n"
    with pytest.raises(TooLargeError, match="cells"):
        predict.read_csv(wide, info)
