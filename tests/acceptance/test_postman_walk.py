"""The Postman collection, walked from its first request to its last before a real Tidemill."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.test_up import Up, running

COLLECTION = Path(__file__).parents[2] / "docs/postman/tidemill.postman_collection.json"
#: What the collection leaves to its user, and what stands there when nobody fills it in.
UNKNOWN = "1a1fc650b850a7e6f4b29046fa"
#: What a request of the collection may come to as it is: no such id, or a closed gate.
FINE = {404, 409}
#: What an address without its user's values comes to.
UNFILLED = {400, 422}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("postman") / ".tidemill"
    with running(home, "--first", "gallery:iris") as up:
        up.await_text("Ask iris-classifier")
        yield up


def requests(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if "item" in item:
            yield from requests(item["item"])
        else:
            yield item["request"]


def filled(request: Any, base: str) -> str:
    """The request's address with its variables."""
    url = request["url"]["raw"].replace("{{base_url}}", base)
    given = {v["key"]: v["value"] for v in request["url"].get("variable", [])}
    given = {"version": "1", **{key: value for key, value in given.items() if value}}
    return re.sub(r"/:(\w+)", lambda found: "/" + given.get(found[1], UNKNOWN), url)


def test_every_request_is_answered_as_documented(served: Up) -> None:
    key = (served.output.parent / ".tidemill" / "key").read_text().strip()
    found, unfit = 0, []
    with httpx.Client(headers={"X-API-Key": key}, timeout=120) as client:
        for request in requests(json.loads(COLLECTION.read_text())["item"]):
            url, body = filled(request, served.api), (request.get("body") or {}).get("raw")
            headers = {one["key"]: one["value"] for one in request["header"]}
            with client.stream(request["method"], url, content=body, headers=headers) as answer:
                found += 1
                status = answer.status_code
                allowed = FINE | (UNFILLED if UNKNOWN in url else set())
                if status >= 400 and status not in allowed:
                    unfit.append((request["method"], url, status, answer.read().decode()[:300]))
    assert unfit == []
    assert found > 60
