"""One request that cannot be stored does not stop the request log, on both databases."""

from __future__ import annotations

import time

import pytest

from tidemill.stores.database.database import Database
from tidemill.stores.request_log import LoggedRequest, RequestLog


def request(**changes: object) -> LoggedRequest:
    fields = {"method": "GET", "route": "/jobs", "path": "/jobs", "status": 200, **changes}
    return LoggedRequest(time=time.time(), milliseconds=1.0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        request(status=2**70),
        request(method=None),
        request(status=None),
    ],
)
def test_a_bad_request_is_left_out_and_counted(database: Database, bad: LoggedRequest) -> None:
    log = RequestLog(database)
    log._buffer.extend([request(route="/a"), bad, request(route="/b")])
    log.flush()
    assert {row["route"] for row in log.page().items} == {"/a", "/b"}
    assert log.dropped == 1
    log.flush()
    assert len(log.page().items) == 2


def test_texts_that_no_column_holds_are_cut_and_cleaned(database: Database) -> None:
    log = RequestLog(database)
    long = "fe80::1%" + "z" * 300
    texts = {"address": long, "path": "/a\0b", "request_id": "a\ud800", "key_id": "\udfff" * 99}
    log._buffer.extend([request(**texts), request()])
    log.flush()
    good, stored = log.page().items
    assert (good["path"], log.dropped) == ("/jobs", 0)
    assert (stored["address"], stored["path"]) == (long[:64], "/a\ufffdb")
    assert (stored["request_id"], stored["key_id"]) == ("a\ufffd", "\ufffd" * 64)
