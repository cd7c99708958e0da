"""Hostile texts and integers in any field of the control plane cause no 5xx, on both databases."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import serving_api
from tidemill.console.app import ACTIONS, PAGES
from tidemill.console.session import Sessions
from tidemill.platform import Platform
from tidemill.stores.api_keys import WatchedKeyring
from tidemill.stores.database.database import Database
from tidemill.stores.ended_sessions import EndedSessions

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

#: As they are percent-encoded in paths, queries and forms. 4400 digits are more than int() takes.
TEXTS = [
    "%00", "a%00b", "%ED%A0%80", "%FF", "9223372036854775808", "99999999999999999999999",
    "1" * 4400, "-9223372036854775809", "2147483648", "-1", "0", "%D9%A3", "%C2%B2", "1e400",
    "NaN", "x" * 300, "%27%22", "%25", "..", "%E2%80%A8", "%1B%5B31m", "%0D%0Ax", "1e18",
    "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00",
    # The cursors {"offset": 1e30}, {"offset": 9999999999999999999999} and [] of MLflow.
    "eyJvZmZzZXQiOiAxZTMwfQ==", "eyJvZmZzZXQiOiA5OTk5OTk5OTk5OTk5OTk5OTk5OTk5fQ==", "W10=",
]  # fmt: skip
#: As they are spelled in JSON.
VALUES = [
    '"\\u0000"', '"a\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', "9223372036854775808",
    "-9223372036854775809", "99999999999999999999999", "1" * 4400, "2147483648", "1e300", "1e400",
    "NaN", "-Infinity", "-1", "0", "null", "true", "[]", "{}", '"' + "x" * 3000 + '"', "1.5",
    '{"\\ud800": 1}', '{"\\u0000": 1}', "[" * 900 + "]" * 900, "[" * 90000, '["a", 1]',
    '"\\u2028\\u001b[31m"',
]  # fmt: skip

#: What every run tries; the whole lists take a minute.
CORE_TEXTS = [TEXTS[i] for i in (0, 1, 2, 4, 6, 8, 20, 25, 26, 27)]
CORE_VALUES = [VALUES[i] for i in (0, 1, 4, 7, 9, 21, 22, 23)]


@pytest.fixture(params=["core", pytest.param("all", marks=pytest.mark.slow)])
def texts(request: pytest.FixtureRequest) -> list[str]:
    return TEXTS if request.param == "all" else CORE_TEXTS


@pytest.fixture(params=["core", pytest.param("all", marks=pytest.mark.slow)])
def values(request: pytest.FixtureRequest) -> list[str]:
    return VALUES if request.param == "all" else CORE_VALUES


@pytest.fixture
def served(database: Database, mlflow_home: Path) -> Iterator[tuple[httpx.Client, Platform]]:
    with (
        serving_api(database, mlflow_home) as (url, key, platform),
        httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=300) as client,
    ):
        yield client, platform


def operations(client: httpx.Client) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    document = client.get("/api/openapi.json").json()
    return [
        (method.upper(), path, operation, document)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_no_hostile_path_or_query_causes_a_5xx(
    served: tuple[httpx.Client, Platform], texts: list[str]
) -> None:
    client, _ = served
    failed = []
    for method, path, operation, _ in operations(client):
        found = operation.get("parameters", [])
        queries = [each["name"] for each in found if each["in"] == "query"]
        for text in texts:
            urls = [re.sub(r"{\w+}", text, path)] if "{" in path else []
            plain = re.sub(r"{\w+}", "1", path)
            urls += [f"{plain}?{name}={text}&limit=1" for name in queries]
            for url in urls:
                failed += failure(client, method, url, body="{}" if method == "POST" else None)
    assert not failed, "\n".join(failed)


def test_no_hostile_body_causes_a_5xx(
    served: tuple[httpx.Client, Platform], values: list[str]
) -> None:
    client, _ = served
    failed = []
    for method, path, operation, document in operations(client):
        if "requestBody" not in operation:
            continue
        for value in values:
            for body in bodies(operation, document, value):
                failed += failure(client, method, re.sub(r"{\w+}", "iris", path), body)
    assert not failed, "\n".join(failed)


def test_no_hostile_page_or_form_of_the_console_causes_a_5xx(
    served: tuple[httpx.Client, Platform], texts: list[str]
) -> None:
    client, platform = served
    sessions = Sessions(
        WatchedKeyring(platform.settings.keys_file), 3600, EndedSessions(platform.database)
    )
    session = sessions.open(client.headers["X-API-Key"])
    client.cookies.set(f"tidemill_session_{client.base_url.port}", sessions.cookie(session))
    headers = {"X-CSRF-Token": sessions.csrf(session)}
    names = ("status", "since", "cursor", "model", "a", "b", "text", "file", "page", "feature")
    failed = []
    assert client.get("/console/settings").status_code == 200
    for (path, _, _), text in itertools.product(PAGES, texts):
        url = "/console" + re.sub(r"{\w+}", text, path)
        failed += failure(client, "GET", url)
        query = "&".join(f"{name}={text}" for name in names)
        failed += failure(client, "GET", f"/console{re.sub(r'{[a-z]+}', 'iris', path)}?{query}")
    names = (
        "trials",
        "kind",
        "reason",
        "name",
        "expires",
        "days",
        "scope",
        "stage",
        "share",
        "mode",
    )
    for (path, _, _), text in itertools.product(ACTIONS, texts):
        if path == "/sign-out":
            continue
        form = "&".join(f"{name}={text}" for name in names) + "&use.logistic=yes&model=iris"
        for value in (text, "iris"):
            url = "/console" + re.sub(r"{\w+}", value, path)
            failed += failure(client, "POST", url, form, {**headers, **FORM})
    assert not failed, "\n".join(failed)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def bodies(operation: dict[str, Any], document: dict[str, Any], value: str) -> Iterator[str]:
    """The value as the whole body, and as each field of it, the others being plausible."""
    yield value
    (content,) = operation["requestBody"]["content"].values()
    reference = json.dumps(content["schema"])
    match = re.search(r"schemas/(\w+)", reference)
    properties = document["components"]["schemas"][match.group(1)]["properties"] if match else {}
    usual = {
        "model": "iris", "name": "iris", "version": "1", "stage": "Staging", "reason": "r",
        "mode": "shadow", "tables": ["request_log"], "before": "2020-01-01T00:00:00Z", "id": "a",
        "actual": 1,
    }  # fmt: skip
    for field in [*properties, "id", "actual", "max_iter", "logistic.C"]:
        others = {
            name: v
            for name, v in usual.items()
            if name in (properties or ("id", "actual")) and name != field
        }
        start = json.dumps(others)[:-1]
        yield f"{start}{', ' if others else ''}{json.dumps(field)}: {value}}}"


def failure(
    client: httpx.Client,
    method: str,
    url: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> list[str]:
    """A line about the answer if it is a 5xx."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    with client.stream(method, url, content=body, headers=headers) as answer:
        if answer.status_code < 500:
            return []
        answer.read()
    return [f"{answer.status_code} {method} {url[:120]} {(body or '')[:200]}: {answer.text[:300]}"]
