"""Where rows come from: CSV files, scikit-learn's data sets, and OpenML's, with and without a
network.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tidemill import csv, openml, sklearn_dataset
from tidemill.errors import DataError, ProjectError

ARFF = """@RELATION {name}
@ATTRIBUTE a REAL
@ATTRIBUTE class {{{classes}}}
@DATA
{rows}
"""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty data home, and no network."""

    def refuse(*_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    return tmp_path


# CSV files


def test_csv_options_are_passed_to_pandas(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a;b\n1,5;x\n")
    frame = csv(tmp_path / "rows.csv", sep=";", decimal=",").load()
    assert frame.to_dict("list") == {"a": [1.5], "b": ["x"]}


def test_a_relative_csv_path_starts_at_a_folder_and_an_absolute_one_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    source = csv("rows.csv")
    assert source.at is not None
    assert len(source.at(Path("/nowhere")).at(tmp_path).load()) == 1  # type: ignore[misc]
    absolute = csv(tmp_path / "rows.csv")
    assert len(absolute.at(Path("/nowhere")).load()) == 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "content", [b"", b'a,b\n"1', b"a\n1,2\n3,4,5\n", b"a\n\xff\xfe\n"], ids=repr
)
def test_a_file_that_is_not_csv_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.csv cannot be read as CSV"):
        csv(tmp_path / "rows.csv").load()


def test_lines_longer_than_the_header_are_refused_except_for_a_trailing_separator(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2,\n3,4,\n")
    assert csv(file).load().to_dict("list") == {"a": [1, 3], "b": [2, 4]}
    for lines in ("1,2,3\n4,5,6\n", "1,2\n4,5,6\n"):
        file.write_text(f"a,b\n{lines}")
        with pytest.raises(DataError, match="cannot be read as CSV"):
            csv(file).load()


def test_duplicate_column_names_are_refused_and_names_ending_in_a_number_are_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a;b;a\n1;2;3\n")
    with pytest.raises(DataError, match="several columns named 'a'"):
        csv(file, sep=";", usecols=["b", "a", "a.1"]).load()
    file.write_text("a,a.1,b.2\n1,2,3\n")
    assert list(csv(file).load()) == ["a", "a.1", "b.2"]


def test_a_missing_csv_is_generated_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("a\n1\n")

    source = csv("data/raw/rows.csv", make=make).at(tmp_path)  # type: ignore[misc]
    assert source.load().equals(source.load())
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "data" / "raw").iterdir()] == ["rows.csv"]


def test_a_csv_whose_generation_failed_does_not_exist(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("a\n1")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        csv(tmp_path / "rows.csv", make=fail).load()
    assert not (tmp_path / "rows.csv").exists()


# scikit-learn's own


@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [
        ("breast_cancer", (569, 31), {"malignant", "benign"}),
        ("wine", (178, 14), {"class_0", "class_1", "class_2"}),
        ("digits", (1797, 65), set(range(10))),
    ],
)
def test_classes_have_the_names_of_scikit_learn(
    name: str, shape: tuple[int, int], labels: set[Any]
) -> None:
    frame = sklearn_dataset(name).load()
    assert frame.shape == shape
    assert set(frame["target"].tolist()) == labels


def test_a_quantity_stays_a_number() -> None:
    assert pd.api.types.is_float_dtype(sklearn_dataset("diabetes").load()["target"])


@pytest.mark.parametrize("name", ["nothing", "svmlight_file", "sample_image"])
def test_an_unknown_scikit_learn_data_set_is_named(name: str) -> None:
    with pytest.raises(ProjectError, match=f"no data set '{name}'"):
        sklearn_dataset(name).load()


def test_california_housing_without_network_says_what_to_do(offline: Path) -> None:
    with pytest.raises(DataError, match="SCIKIT_LEARN_DATA") as caught:
        sklearn_dataset("california_housing").load()
    assert "california_housing" in caught.value.detail


# OpenML's


def test_openml_without_network_says_what_to_do_and_restores_the_timeout(offline: Path) -> None:
    with pytest.raises(DataError, match="OpenML's 'mnist_784'"):
        openml("mnist_784").load()
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("quote", ["'", ""], ids=["quoted", "bare"])
def test_openml_reads_from_the_data_home_only_whatever_the_format_of_classes(
    offline: Path, quote: str
) -> None:
    keep_openml(offline, "tiny", [f"{n / 2},{quote}{n % 2}{quote}" for n in range(6)])
    frame = openml("tiny").load()
    assert frame["a"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert frame["class"].astype(str).tolist() == ["0", "1", "0", "1", "0", "1"]


def keep_openml(home: Path, name: str, rows: list[str]) -> None:
    """Lay a data set into scikit-learn's data home, as a first download leaves it."""
    root = home / "openml" / "openml.org"
    arff = ARFF.format(name=name, classes="0,1", rows="\n".join(rows))
    api = root / "api" / "v1" / "json" / "data"
    description = {
        "id": "99", "name": name, "version": "1", "status": "active", "description": "",
        "format": "ARFF",
        "file_id": "77", "url": "https://openml.org/data/v1/download/77/tiny.arff",
        "default_target_attribute": "class", "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
    }  # fmt: skip
    listed = {"data": {"dataset": [{"did": 99, "name": name, "version": 1, "status": "active"}]}}
    columns = [
        {"index": "0", "name": "a", "data_type": "numeric"},
        {"index": "1", "name": "class", "data_type": "nominal", "nominal_value": ["0", "1"]},
    ]
    common = {"is_target": "false", "is_ignore": "false", "is_row_identifier": "false",
              "number_of_missing_values": "0"}  # fmt: skip
    features = [{**common, **column} for column in columns]
    features[1]["is_target"] = "true"
    answers = {
        api / "list" / "data_name" / name / "limit" / "2" / "data_version" / "1.gz": listed,
        api / "99.gz": {"data_set_description": description},
        api / "features" / "99.gz": {"data_features": {"feature": features}},
        api / "qualities" / "99.gz": {"data_qualities": {"quality": []}},
    }
    for path, answer in answers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(answer).encode()))
    file = root / "data" / "v1" / "download" / "77" / "tiny.arff.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(arff.encode()))
