"""Bodies with too many rows or cells, in every format, are refused before anything is built."""

from __future__ import annotations

import io
import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import TooLargeError
from tidemill.serving.codec.body_limits import BodyLimits

from .conftest import FLOATS, Tidemill, make_shelf, starting

NAMES = list(FLOATS)
ROW = [1.0] * len(NAMES)
ROWS, CELLS = 50, 600
CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tidemill]:
    home = tmp_path_factory.mktemp("home")
    make_shelf(home / "shelf", ("classifier",))
    with starting(home) as begin:
        yield begin(max_rows=ROWS, max_cells=CELLS)


def parquet(names: list[str], rows: int, kind: str = "number") -> bytes:
    if kind == "list":
        values = pa.array([[1.0] * 1000] * rows)
    elif kind == "text":
        values = pa.array(["x" * 10_000] * rows).dictionary_encode()
    else:
        values = pa.array(np.ones(rows))
    out = io.BytesIO()
    pq.write_table(pa.table(dict.fromkeys(names, values)), out, compression="zstd")
    return out.getvalue()


def tensors(rows: int, count: int | None = None) -> dict[str, object]:
    data = [1.0] * (rows if count is None else count)
    return {
        "inputs": [
            {"name": name, "shape": [rows], "datatype": "FP64", "data": data} for name in NAMES
        ]
    }


def forms(rows: int) -> dict[str, tuple[str, bytes, str]]:
    """Path, body and content type of as many rows, by format."""
    table = [ROW] * rows
    named = [dict(zip(NAMES, ROW, strict=True))] * rows
    csv = "\n".join([",".join(NAMES), *(",".join(map(str, row)) for row in table)])
    given: dict[str, tuple[str, object]] = {
        "native lists": ("/predict", {"instances": table}),
        "native objects": ("/predict_batch", {"instances": named}),
        "split": ("/invocations", {"dataframe_split": {"columns": NAMES, "data": table}}),
        "records": ("/invocations", {"dataframe_records": named}),
        "instances": ("/invocations", {"instances": table}),
        "inputs": ("/invocations", {"inputs": {name: [1.0] * rows for name in NAMES}}),
        "v2": ("/v2/models/classifier/infer", tensors(rows)),
    }
    found = {
        k: (path, json.dumps(v).encode(), "application/json") for k, (path, v) in given.items()
    }
    found["csv"] = ("/invocations", csv.encode(), CSV)
    found["parquet"] = ("/invocations", parquet(NAMES, rows), PARQUET)
    return found


def status(server: Tidemill, path: str, body: bytes, media: str) -> int:
    return server.ask(path, body, headers={"Content-Type": media}).status


@pytest.mark.parametrize("form", list(forms(1)))
def test_as_many_rows_as_allowed_are_answered_and_no_more(server: Tidemill, form: str) -> None:
    assert status(server, *forms(ROWS)[form]) == 200
    got = server.ask(*forms(ROWS + 1)[form][:2], headers={"Content-Type": forms(1)[form][2]})
    assert got.status == 413
    assert "TIDEMILL_MAX_ROWS" in got.body.decode() or "50 rows" in got.body.decode()


def square(count: int) -> list[dict[str, float]]:
    return [{f"a{i}": 1.0, **dict(zip(NAMES, ROW, strict=True))} for i in range(count)]


@pytest.mark.parametrize(
    ("path", "body", "media"),
    [
        ("/invocations", b",".join(b"a%d" % i for i in range(CELLS + 1)) + b"\n", CSV),
        ("/invocations", parquet([f"a{i}" for i in range(CELLS + 1)], 1), PARQUET),
        ("/invocations", parquet(NAMES[:1], 2_000_000), PARQUET),
        (
            "/invocations",
            json.dumps(
                {"dataframe_split": {"columns": [f"a{i}" for i in range(601)], "data": [[1] * 601]}}
            ).encode(),
            "application/json",
        ),
        ("/v2/models/classifier/infer", json.dumps(tensors(10**9, 1)).encode(), "application/json"),
        ("/v2/models/classifier/infer", json.dumps(tensors(2**63, 1)).encode(), "application/json"),
    ],
    ids=["wide csv", "wide parquet", "long parquet", "wide split", "v2 shape", "v2 huge shape"],
)
def test_hostile_tables_are_refused(server: Tidemill, path: str, body: bytes, media: str) -> None:
    assert status(server, path, body, media) == 413


@pytest.mark.parametrize(("kind", "expected"), [("list", 400), ("text", 400)])
def test_hostile_columns_of_a_parquet_file_are_refused(
    server: Tidemill, kind: str, expected: int
) -> None:
    assert status(server, "/invocations", parquet(NAMES, 20, kind), PARQUET) == expected


def test_columns_that_the_model_does_not_have_are_not_read(server: Tidemill) -> None:
    body = json.dumps({"dataframe_records": square(40)}).encode()
    assert status(server, "/invocations", body, "application/json") == 200


def test_small_requests_are_answered_while_a_large_body_is_parsed(
    tmp_path: Path,
) -> None:
    make_shelf(tmp_path / "shelf", ("classifier",))
    with starting(tmp_path) as begin:
        server = begin()
        path, body, media = forms(60_000)["csv"]
        found: list[int] = []
        large = threading.Thread(target=lambda: found.append(status(server, path, body, media)))
        large.start()
        small = 0
        while large.is_alive():
            assert server.ask("/predict", {"features": ROW}).status == 200
            small += 1
        large.join()
    assert found == [200]
    assert small > 3


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def separators(value: object) -> int:
    """The commas of a JSON text, without those within strings."""
    if isinstance(value, dict):
        return max(len(value) - 1, 0) + sum(map(separators, value.values()))
    if isinstance(value, list):
        return max(len(value) - 1, 0) + sum(map(separators, value))
    return 0


@given(json_values, st.integers(1, 20), st.booleans())
def test_values_of_a_json_text_are_counted_without_building_them(
    value: object, most: int, ascii_only: bool
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    limits = BodyLimits(10**9, most)
    if len(body) <= most or separators(value) <= most:
        limits.check_json(body)
    else:
        with pytest.raises(TooLargeError):
            limits.check_json(body)


@pytest.mark.parametrize(
    "body",
    [b"[" + b"1," * 8_000_000 + b"1]", b'["' + b"\\" * 8_000_000, b'"' * 8_000_001],
    ids=["numbers", "backslashes", "quotes"],
)
def test_counting_takes_no_more_memory_than_the_body(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError) if b"1," in body else pytest.MonkeyPatch.context():
            BodyLimits(100_000, 1_000_000).check_json(body + b"," * 900_000)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()
