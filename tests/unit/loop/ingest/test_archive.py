"""The archive: one file per day, rewritten only if it changed, and readable by DuckDB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset
import pytest
from moto.server import ThreadedMotoServer

from tests.unit.stores.predictions.test_predictions import MIXED, PLANTS, PRICES, record
from tidemill.errors import SettingsError, UnavailableError
from tidemill.loop.ingest.archive import PredictionArchive, open_filesystem
from tidemill.loop.ingest.retention import Retention
from tidemill.signature import Signature, Tensor
from tidemill.stores.database.database import Database
from tidemill.stores.predictions.feedback import Feedback, NewLabel
from tidemill.stores.predictions.predictions import Predictions

DAY = 86400.0
SIGNED = {("plants", "1"): PLANTS}


@pytest.fixture
def predictions(database: Database) -> Predictions:
    store = Predictions(database)
    store.add([record(n, time=n * DAY / 2) for n in range(5)], SIGNED)
    return store


def written(archive: PredictionArchive, **how: Any) -> list[tuple[str, str]]:
    return [(day.model, day.date) for day in archive.run(**how)]


def ask(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
    return duckdb.sql(sql.replace("FILES", source)).fetchall()


def test_each_model_and_day_is_a_file_that_duckdb_reads(
    predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    Feedback(database).add([NewLabel("p00003", "fern")])
    archive = PredictionArchive(database, str(tmp_path / "out"))
    days = [("plants", "1970-01-01"), ("plants", "1970-01-02"), ("plants", "1970-01-03")]
    assert written(archive) == days
    rows = ask(
        tmp_path / "out",
        "SELECT id, features.height, features.leaves, output, actual, confidence, weight, "
        "epoch(time), label_time IS NULL, probabilities FROM FILES "
        "WHERE model = 'plants' AND day > '1970-01-01' ORDER BY time LIMIT 2",
    )
    assert rows == [
        ("p00002", 2.0, 4, "fern", None, 0.75, 1.0, DAY, True, [0.25, 0.75]),
        ("p00003", 3.0, 6, "moss", "fern", 0.75, 1.0, 1.5 * DAY, False, [0.25, 0.75]),
    ]
    held = pyarrow.dataset.dataset(tmp_path / "out", partitioning="hive")
    assert held.count_rows() == 5


def test_only_changed_days_are_rewritten(
    predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    archive = PredictionArchive(database, str(tmp_path))
    assert len(written(archive)) == 3
    assert written(archive) == []
    predictions.add([record(9, time=DAY + 5)])
    assert written(archive) == [("plants", "1970-01-02")]
    Feedback(database).add([NewLabel("p00000", "moss")])
    assert written(archive) == [("plants", "1970-01-01")]
    Feedback(database).add([NewLabel("p00000", "fern", replace=True)])
    assert written(archive) == [("plants", "1970-01-01")]
    assert ask(tmp_path, "SELECT actual FROM FILES WHERE id = 'p00000'") == [("fern",)]
    assert written(archive, models=["others"]) == []


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "length", "schema"])
def test_a_damaged_file_is_kept_aside_and_its_day_written_again(
    damage: str, predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    archive = PredictionArchive(database, str(tmp_path))
    archive.run()
    path = tmp_path / "model=plants" / "day=1970-01-02" / "predictions.parquet"
    whole = path.read_bytes()
    bad = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "garbage": b"x" * 100,
        "length": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "schema": whole[:-200] + bytes(192) + whole[-8:],
    }[damage]
    path.write_bytes(bad)
    assert written(archive) == [("plants", "1970-01-02")]
    assert path.read_bytes()[-4:] == b"PAR1"
    (kept,) = path.parent.glob("_damaged-*")
    assert kept.read_bytes() == bad
    assert ask(tmp_path, "SELECT count(*) FROM FILES") == [(5,)]
    assert written(archive) == []


def test_rows_deleted_by_retention_stay_in_the_files(
    predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    archive = PredictionArchive(database, str(tmp_path))
    keep = Retention(database, rows=1, archive=archive.write_before)
    assert keep.apply() == 4, "the last day is not over, and stays"
    assert ask(tmp_path, "SELECT count(*) FROM FILES") == [(4,)]
    assert predictions.count("plants") == 1
    assert written(archive) == [("plants", "1970-01-03")]
    assert ask(tmp_path, "SELECT count(*) FROM FILES") == [(5,)]


def test_a_day_that_lost_rows_keeps_its_file(
    predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    archive = PredictionArchive(database, str(tmp_path))
    archive.run()
    Retention(database, rows=4).apply()
    assert written(archive) == []
    assert ask(tmp_path, "SELECT count(*) FROM FILES") == [(5,)]


def test_retention_deletes_nothing_if_archiving_fails(
    predictions: Predictions, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    archive = PredictionArchive(database, str(tmp_path / "file"))
    with pytest.raises(UnavailableError):
        Retention(database, rows=1, archive=archive.write_before).apply()
    assert predictions.count("plants") == 5


def test_versions_with_different_columns_and_labels_share_a_file(
    database: Database, tmp_path: Path
) -> None:
    store = Predictions(database)
    rows = [[None, "basic", True, 1], [3.5, None, False, 2]]
    other = record(
        2, version="2", rows=2, encoding="values", features=rows, predictions=[True, False],
        probabilities=None,
    )  # fmt: skip
    nothing = record(3, encoding="none", features=None)
    store.add([record(1), other, nothing], {**SIGNED, ("plants", "2"): MIXED})
    PredictionArchive(database, str(tmp_path)).run()
    found = ask(
        tmp_path,
        "SELECT id, output, features.height, features.age, features.app, features IS NULL "
        "FROM FILES ORDER BY id",
    )
    assert found == [
        ("p00001", '"moss"', 1.0, None, None, False),
        ("p00002-0", "true", None, None, True, False),
        ("p00002-1", "false", None, 3.5, False, False),
        ("p00003", '"moss"', None, None, None, True),
    ]


def test_numbers_tensors_and_unknown_versions(database: Database, tmp_path: Path) -> None:
    store = Predictions(database)
    digits = Signature("classification", "digit", tensor=Tensor("image", (2,)), labels=(0, 1, 2))
    price = record(
        1, model="a price/é", features=np.array([3], "<f4").tobytes(), predictions=[2.5],
        probabilities=None,
    )  # fmt: skip
    digit = record(2, model="digits", predictions=[2])
    unknown = record(3, model="unknown")
    store.add([price, digit, unknown], {("a price/é", "1"): PRICES, ("digits", "1"): digits})
    PredictionArchive(database, str(tmp_path)).run()
    for_all = f"read_parquet('{tmp_path}/**/*.parquet', union_by_name = true)"
    models = duckdb.sql(f"SELECT model FROM {for_all} ORDER BY model").fetchall()
    assert models == [("a price/é",), ("digits",), ("unknown",)]
    one = next((tmp_path / "model=digits").rglob("*.parquet"))
    digit_row = duckdb.sql(f"SELECT features, output FROM '{one}'").fetchall()
    assert digit_row == [([2.0, 4.0], 2)]
    (priced,) = [folder for folder in tmp_path.iterdir() if "price" in folder.name]
    file = next(priced.rglob("*.parquet"))
    assert duckdb.sql(f"SELECT output, features.rooms FROM '{file}'").fetchall() == [(2.5, 3.0)]
    raw = next((tmp_path / "model=unknown").rglob("*.parquet"))
    assert duckdb.sql(f"SELECT output FROM '{raw}'").fetchall() == [('"moss"',)]


def test_an_unsupported_url_is_rejected(database: Database) -> None:
    with pytest.raises(SettingsError, match="ftp"):
        PredictionArchive(database, "ftp://somewhere/x")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on its own S3 server."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    names = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        files, _ = open_filesystem("s3://bucket")
        files = type(files)(
            scheme="http",
            endpoint_override=names["MLFLOW_S3_ENDPOINT_URL"].removeprefix("http://"),
            region="us-east-1",
            allow_bucket_creation=True,
        )
        files.create_dir("bucket")
        yield "s3://bucket/history"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()


def test_an_object_store_works_like_a_folder(
    predictions: Predictions, database: Database, s3: str
) -> None:
    url = f"{s3}/{database.dialect}"
    archive = PredictionArchive(database, url)
    assert len(written(archive)) == 3
    assert written(archive) == []
    Feedback(database).add([NewLabel("p00000", "moss")])
    assert written(archive) == [("plants", "1970-01-01")]
    files, path = open_filesystem(url)
    held = pyarrow.dataset.dataset(path, filesystem=files, partitioning="hive")
    assert held.count_rows() == 5
    assert held.to_table().column("actual").null_count == 4
