"""Requests for the data plane: valid ones of every protocol, and mutations of them."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz.values import TEXTS, flip, in_path, mutate, request, scalar, to_json, tree

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
MODEL = "iris-classifier"
METHODS = ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "POST", "BREW", "get"]
PATHS = [
    "/predict", "/predict_batch", "/schema", "/v2", "/v2/health/live", "/v2/health/ready", "/ping",
    "/version", "/health", "/ready", "/info", "/metrics", "/openapi.json", "/invocations",
    "/nothing",
    "/v2/repository/index", "/v2/models", "//predict", "/predict/", "/predict?x=1&x=2", "*",
    "/%2e%2e",
]  # fmt: skip
TYPES = [
    "application/json", "application/json; charset=utf-8", "text/csv", "application/octet-stream",
    "application/vnd.apache.parquet", "application/x-www-form-urlencoded", "text/plain", "", "x",
    "application/json;charset=\x7f", "multipart/form-data; boundary=x", "application/JSON",
]  # fmt: skip


class DataRequests:
    """Draws requests.

    Args:
        key: A valid API key.
    """

    def __init__(self, drawn: random.Random, key: str) -> None:
        self._drawn, self._key = drawn, key
        self._kinds: list[tuple[Callable[[], bytes], int]] = [
            (self._native, 40), (self._batch, 15), (self._v2, 20), (self._v2_binary, 8),
            (self._invocations, 20), (self._csv, 8), (self._parquet, 4), (self._other, 12),
        ]  # fmt: skip

    def draw(self) -> bytes:
        """One request with complete framing."""
        kinds, weights = zip(*self._kinds, strict=True)
        make: Callable[[], bytes] = self._drawn.choices(kinds, weights)[0]
        return make()

    def broken(self) -> bytes:
        """Bytes that need not be a request at all; only for the end of a connection."""
        data = self.draw()
        kind = self._drawn.random()
        if kind < 0.5:
            head, _, body = data.partition(b"\r\n\r\n")
            return flip(self._drawn, head) + b"\r\n\r\n" + body
        if kind < 0.7:
            return data[: self._drawn.randrange(len(data))]
        if kind < 0.72:  # its answer ends what HTTP frames on this connection
            return b"CONNECT /predict HTTP/1.1\r\nHost: x\r\n\r\n" + data
        if kind < 0.8:
            lines = data.partition(b"\r\n")
            extra = self._drawn.choice(
                [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b" folded\r\n",
                 b"X: " + b"y" * 70_000 + b"\r\n", b"A: b\r\n" * 300, b"Content-Length: -1\r\n",
                 b"Content-Length: 99999999999999999999\r\n", b"Expect: 100-continue\r\n",
                 b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"\x00: 1\r\n"]
            )  # fmt: skip
            return lines[0] + lines[1] + extra + lines[2]
        return self._drawn.randbytes(self._drawn.randrange(1, 400))

    def _send(self, path: str, body: bytes, content_type: str | None = None) -> bytes:
        drawn = self._drawn
        if drawn.random() < 0.03:
            body = flip(drawn, body)
        kind = content_type if content_type is not None and drawn.random() < 0.97 else None
        headers = {"Content-Type": kind or drawn.choice(TYPES).replace("\x7f", "")}
        if drawn.random() < 0.95:
            headers["X-API-Key"] = self._key
        elif drawn.random() < 0.5:
            headers["Authorization"] = drawn.choice(["Bearer x", "Basic eA==", "Bearer", ""])
        if drawn.random() < 0.1:
            name = drawn.choice(
                ["X-Request-ID", "Accept", "Accept-Encoding", "Content-Encoding", "Origin",
                "traceparent",
                 "Cookie", "Range", "Inference-Header-Content-Length"]
            )  # fmt: skip
            value = "".join(c for c in drawn.choice(TEXTS) if c.isprintable() and c < "\x7f")
            headers[name] = value[:200]
        method = "POST" if drawn.random() < 0.97 else drawn.choice(METHODS)
        return request(drawn, method, path, headers, body)

    def _row(self) -> dict[str, Any]:
        drawn = self._drawn
        row: Any = {name: round(drawn.uniform(0, 8), 2) for name in NAMES}
        return row if drawn.random() < 0.4 else mutate(drawn, row)  # type: ignore[no-any-return]

    def _path(self, of_model: str, plain: str) -> str:
        drawn = self._drawn
        if drawn.random() < 0.6:
            return plain
        name = MODEL if drawn.random() < 0.7 else drawn.choice(TEXTS)
        return of_model.format(in_path(drawn, name))

    def _native(self) -> bytes:
        row = self._row()
        wrapped: Any = {"features": row} if self._drawn.random() < 0.7 else row
        if self._drawn.random() < 0.1:
            wrapped = mutate(self._drawn, wrapped)
        path = self._path("/models/{}/predict", "/predict")
        return self._send(path, to_json(self._drawn, wrapped), "application/json")

    def _batch(self) -> bytes:
        rows = [self._row() for _ in range(self._drawn.choice([0, 1, 2, 5, 40]))]
        key = self._drawn.choice(["instances", "rows", "features"])
        body: Any = {key: rows} if self._drawn.random() < 0.8 else rows
        path = self._path("/models/{}/predict_batch", "/predict_batch")
        return self._send(path, to_json(self._drawn, body), "application/json")

    def _infer_body(self) -> dict[str, Any]:
        drawn = self._drawn
        count = drawn.choice([1, 2, 3])
        datatype = drawn.choice(["FP64", "FP32", "INT64", "BYTES", "BOOL"])
        inputs: list[Any] = [
            {"name": name, "shape": [count], "datatype": datatype, "data": [1.5] * count}
            for name in NAMES
        ]
        if drawn.random() < 0.3:
            inputs = [
                {"name": "x", "shape": [count, 4], "datatype": "FP64", "data": [1] * 4 * count}
            ]
        return {"id": str(scalar(drawn)), "inputs": inputs}

    def _v2(self) -> bytes:
        body: Any = self._infer_body()
        if self._drawn.random() < 0.7:
            body = mutate(self._drawn, body)
        path = self._path("/v2/models/{}/infer", f"/v2/models/{MODEL}/infer")
        return self._send(path, to_json(self._drawn, body), "application/json")

    def _v2_binary(self) -> bytes:
        drawn = self._drawn
        size = drawn.choice([16, 32, 0, -1, 2**31, 2**63, 7])
        tensor = {"name": "x", "shape": [1, 4], "datatype": drawn.choice(["FP64", "FP32", "BYTES"])}
        body: Any = {"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}
        if drawn.random() < 0.4:
            body = mutate(drawn, body)
        head = json.dumps(body).encode("utf-8", "surrogatepass")
        length = drawn.choice([len(head)] * 6 + [0, -1, len(head) + 1, 2**40, 3])
        data = head + struct.pack("<4d", 1, 2, 3, float("nan"))[: drawn.choice([16, 32, 5])]
        headers = {
            "X-API-Key": self._key,
            "Inference-Header-Content-Length": str(length),
            "Content-Type": "application/octet-stream",
        }
        return request(drawn, "POST", f"/v2/models/{MODEL}/infer", headers, data)

    def _invocations(self) -> bytes:
        drawn = self._drawn
        rows = [
            [round(drawn.uniform(0, 8), 1) for _ in NAMES] for _ in range(drawn.choice([0, 1, 3]))
        ]
        body: Any = drawn.choice(
            [
                {"dataframe_split": {"columns": list(NAMES), "data": rows}},
                {"dataframe_records": [dict(zip(NAMES, row, strict=True)) for row in rows]},
                {"instances": rows},
                {"inputs": {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}},
                {"inputs": rows, "params": {"a": 1}},
            ]
        )
        if drawn.random() < 0.6:
            body = mutate(drawn, body)
        return self._send("/invocations", to_json(drawn, body), "application/json")

    def _csv(self) -> bytes:
        drawn, text = self._drawn, io.StringIO()
        writer = csv.writer(text, delimiter=drawn.choice(",,,;\t"))
        writer.writerow(NAMES if drawn.random() < 0.8 else [drawn.choice(TEXTS) for _ in range(4)])
        for _ in range(drawn.randrange(4)):
            hostile = drawn.random() < 0.3
            writer.writerow([scalar(drawn) if hostile else 1.5 for _ in range(4)])
        body = text.getvalue().encode("utf-8", "surrogatepass")
        return self._send("/invocations", body, "text/csv")

    def _parquet(self) -> bytes:
        drawn, sink = self._drawn, io.BytesIO()
        columns: dict[str, Any] = {name: [1.0, 2.0] for name in NAMES}
        if drawn.random() < 0.4:
            columns[drawn.choice(NAMES)] = drawn.choice(
                [["a", "b"], [None, None], [[1], [2]], [b"\xff", b""], [True, False], [2**60, 1]]
            )
        pq.write_table(pa.table(columns), sink)
        body = sink.getvalue()
        if drawn.random() < 0.5:
            body = flip(drawn, body)
        return self._send("/invocations", body, "application/vnd.apache.parquet")

    def _other(self) -> bytes:
        drawn = self._drawn
        path = (
            drawn.choice(PATHS)
            if drawn.random() < 0.8
            else f"/{in_path(drawn, drawn.choice(TEXTS))}"
        )
        method = "GET" if drawn.random() < 0.6 else drawn.choice(METHODS[:6])
        body = to_json(drawn, tree(drawn)) if drawn.random() < 0.2 else b""
        headers = {"X-API-Key": self._key} if drawn.random() < 0.7 else {}
        return request(drawn, method, path, headers, body)
