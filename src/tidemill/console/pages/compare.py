"""Compare two versions: their metrics, pictures and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.pages.models import PICTURES, evidence_of
from tidemill.console.responses import show_page
from tidemill.errors import NotFoundError
from tidemill.metrics import METRICS
from tidemill.stores.mlflow.evidence import read_intervals
from tidemill.stores.mlflow.versions import ModelVersion

Interval = tuple[float, float]

#: Parameters of a run that are not settings.
IGNORED = frozenset({"candidate"})


@dataclass(frozen=True)
class MetricComparison:
    """A metric of both versions. `better` is "a", "b", or "" if neither is better.

    `intervals` are None for versions trained before intervals were recorded.
    """

    metric: str
    a: float | None
    b: float | None
    better: str
    intervals: tuple[Interval | None, Interval | None] = (None, None)


def compare(request: PageRequest) -> Response:
    """The page. `a` and `b` in the query are the versions; by default champion and newest."""
    name = request.path_params["name"]
    found = queries.versions(request, name)
    versions = found.value or []
    a, b = _chosen(versions, request.query)
    if a is None or b is None:
        return show_page(
            request, "compare.html", {"name": name, "found": found, "versions": versions, "a": None}
        )
    details = [_details(request, version) for version in (a, b)]
    params = [detail["params"] for detail in details]
    intervals = [detail["intervals"] for detail in details]
    return show_page(request,
        "compare.html",
        {
            "name": name,
            "found": found,
            "versions": versions,
            "a": a,
            "b": b,
            "rows": _rows(a, b, intervals),
            "held_out": [given.get("rows_test") for given in params],
            "params": _differing(*params),
            "same": len(_shared(*params)),
            "direct": _direct(request, a, b),
            "pictures": [
                (file, title) for file, title in PICTURES.items()
                if any(file in detail["files"] for detail in details)
            ],
            "files": [detail["files"] for detail in details],
        },
    )  # fmt: skip


def _chosen(
    versions: list[ModelVersion], query: Mapping[str, str]
) -> tuple[ModelVersion | None, ModelVersion | None]:
    by_number = {version.number: version for version in versions}
    for side in ("a", "b"):
        if side in query and versions and query[side] not in by_number:
            raise NotFoundError(f"There is no version {query[side]}.", field=side)
    champion = queries.champion_of(versions)
    a = by_number.get(query.get("a", "")) or champion or (versions[-1] if versions else None)
    others = [version for version in versions if a is None or version.number != a.number]
    return a, by_number.get(query.get("b", "")) or (others[0] if others else None)


def _details(request: PageRequest, version: ModelVersion) -> dict[str, Any]:
    """The parameters, metric intervals and file names of the version's run."""
    platform, run_id = request.context.platform, version.run_id
    nothing = {"params": {}, "intervals": {}, "files": frozenset[str]()}
    if run_id is None:
        return nothing

    def read() -> dict[str, Any]:
        client = platform.tracking
        files = frozenset(entry.path for entry in client.list_artifacts(run_id))
        params = dict(client.get_run(run_id).data.params)
        return {"params": params, "intervals": read_intervals(client, run_id), "files": files}

    try:
        answer = request.context.cache.get(("run", run_id), read, fresh=60.0, patience=2.0)
    except NotFoundError:
        return nothing
    return answer.value or nothing


def _rows(
    a: ModelVersion, b: ModelVersion, intervals: list[Mapping[str, Interval]]
) -> list[MetricComparison]:
    names = [name for name in METRICS if name in a.metrics or name in b.metrics]
    return [_row(name, a.metrics.get(name), b.metrics.get(name), intervals) for name in names]


def _row(
    metric: str, a: float | None, b: float | None, intervals: list[Mapping[str, Interval]]
) -> MetricComparison:
    better = ""
    if a is not None and b is not None and a != b:
        better = "a" if (a > b) == METRICS[metric].higher_is_better else "b"
    first, second = (found.get(metric) for found in intervals)
    return MetricComparison(metric, a, b, better, (first, second))


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = sorted((a.keys() | b.keys()) - IGNORED)
    return [(n, a.get(n, "–"), b.get(n, "–")) for n in names if a.get(n) != b.get(n)]


def _shared(a: Mapping[str, str], b: Mapping[str, str]) -> set[str]:
    return {name for name in a.keys() & b.keys() if a[name] == b[name]}


def _direct(request: PageRequest, a: ModelVersion, b: ModelVersion) -> dict[str, Any] | None:
    """The gate's comparison of the two on the same rows, if it made one."""
    for challenger, champion in ((b, a), (a, b)):
        if challenger.tags.get("tidemill.gate.champion") != champion.number:
            continue
        evidence = evidence_of(request, challenger)
        if evidence and (evidence["verdict"].get("comparison") or {}).get("low") is not None:
            return {"challenger": challenger, "champion": champion, **evidence["verdict"]}
    return None
