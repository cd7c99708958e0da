"""The Postman collection in the docs matches the routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import postman


@pytest.fixture(scope="module")
def document() -> Any:
    return postman.document()


def requests(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if "item" in item:
            yield from requests(item["item"])
        else:
            yield item


def test_the_collection_is_up_to_date(document: Any) -> None:
    written = json.loads(postman.PAGE.read_text())
    assert written == postman.collection(document), "run: python scripts/postman.py"


def test_every_route_appears_once(document: Any) -> None:
    asked = [
        (each["request"]["method"], each["request"]["url"]["raw"])
        for each in requests(postman.collection(document)["item"])
    ]
    routes = {
        (method.upper(), "{{base_url}}" + path.replace("{", ":").replace("}", ""))
        for path, verbs in document["paths"].items()
        for method in verbs
        if method in postman.METHODS
    }
    assert set(asked) == routes
    assert len(asked) == len(routes)
    paths = {url for _, url in asked}
    for one in ("/models/iris-classifier/predict", "/feedback", "/jobs", "/audit", "/v2"):
        assert "{{base_url}}" + one in paths


def test_it_has_the_structure_of_v2_1(document: Any) -> None:
    made = postman.collection(document)
    assert made["info"]["schema"].endswith("/v2.1.0/collection.json")
    assert {each["key"] for each in made["variable"]} == {"base_url", "api_key"}
    assert made["auth"]["type"] in made["auth"]
    for each in requests(made["item"]):
        request, url = each["request"], each["request"]["url"]
        assert each["name"]
        assert request["method"].isupper()
        assert url["raw"] == "/".join([*url["host"], *url["path"]])
        named = {part[1:] for part in url["path"] if part.startswith(":")}
        assert {v["key"] for v in url.get("variable", [])} == named
        assert all({"key", "value"} <= set(one) for one in request["header"] + url.get("query", []))
        body = request.get("body")
        if body:
            assert body["mode"] == "raw"
            if body["options"]["raw"]["language"] == "json":
                json.loads(body["raw"])


def test_required_parameters_have_example_values(document: Any) -> None:
    for each in requests(postman.collection(document)["item"]):
        for one in each["request"]["url"].get("query", []):
            assert one.get("disabled") or one["value"], (each["name"], one["key"])
