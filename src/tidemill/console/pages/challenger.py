"""The page of a model's challenger: its traffic, its results there, and the contest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response

from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import show_page
from tidemill.errors import TidemillError
from tidemill.loop.promotion.challenge import Standing, standing
from tidemill.policies import Challenge, Contest, seconds
from tidemill.serving.shelf.traffic_rules import Mode, TrafficRule, read_traffic
from tidemill.steps.gate.canary import MIN_LABELLED, TrafficSample
from tidemill.steps.retraining.contest import Contestant, ContestDecision
from tidemill.stores.mlflow.versions import CHALLENGER, ModelVersion
from tidemill.stores.retraining.contests import ContestRow

MODES: Mapping[Mode, str] = {
    "canary": "Canary: answer a share of the callers",
    "shadow": "Shadow: answer a copy of the requests, whose answers are discarded",
    "off": "Off: receive no traffic",
}
DEFAULT_SHARE = 0.1


def challenger(request: PageRequest) -> Response:
    """The page."""
    versions = queries.versions(request, request.path_params["name"]).value or []
    return show_challenger(request, versions)


def show_challenger(
    request: PageRequest,
    versions: list[ModelVersion],
    problem: TidemillError | None = None,
) -> Response:
    """The page, with an error if its form was refused."""
    name = request.path_params["name"]
    canary, contest = policies(request)
    now = traffic_state(request, versions)
    found = _standing(request, now["champion"], now["now"])
    values = {
        **now,
        "found": queries.versions(request, name),
        "others": [v for v in versions if v is not now["champion"]],
        "form": {"mode": "canary", "share": f"{100 * DEFAULT_SHARE:g}", **request.query},
        "modes": MODES,
        "problem": problem,
        "standing": found,
        "sides": _sides(found),
        "needs": _missing_rows(found, canary),
        "policy": canary,
        "contest": contest_values(request.context.platform.contests.newest(name), contest),
    }
    return show_page(request, "challenger.html", values, problem.status if problem else 200)


def traffic_state(request: PageRequest, versions: list[ModelVersion]) -> dict[str, Any]:
    """Champion and challenger, the traffic rule in force, and the challenger that is loaded."""
    name = request.path_params["name"]
    served = (queries.served(request).value or {}).get(name) or {}
    return {
        "name": name,
        "champion": queries.champion_of(versions),
        "challenger": next((v for v in versions if CHALLENGER in v.aliases), None),
        "now": read_traffic(request.context.platform.settings.shelf).get(name, TrafficRule()),
        "loaded": served.get("challenger"),
    }


def policies(request: PageRequest) -> tuple[Challenge, Contest]:
    """The project's policies; the defaults if no project here trains the model."""
    known = (queries.projects(request).value or {}).get(request.path_params["name"])
    return (known.project.challenge, known.project.contest) if known else (Challenge(), Contest())


def _standing(
    request: PageRequest, champion: ModelVersion | None, rule: TrafficRule
) -> Standing | None:
    if champion is None or rule.mode == "off":
        return None
    name, role, number = request.path_params["name"], rule.mode, champion.number
    predictions = request.context.platform.predictions
    return request.context.cache.get(
        ("standing", name, role, number),
        lambda: standing(predictions, name, number, role),
        fresh=5.0,
    ).value


def _sides(found: Standing | None) -> list[dict[str, Any]]:
    if found is None:
        return []
    sides = (("Challenger", found.challenger), ("Champion", found.champion))
    return [{"name": name, **_figures(sample)} for name, sample in sides]


def _figures(sample: TrafficSample) -> dict[str, Any]:
    latency, losses = sample.milliseconds, sample.losses
    return {
        "answers": int(latency.size),
        "p95": float(np.quantile(latency, 0.95)) / 1000 if latency.size else None,
        "labelled": int(losses.size),
        "loss": float(losses.mean()) if losses.size else None,
    }


def _missing_rows(found: Standing | None, policy: Challenge) -> list[str]:
    """The rows that are missing before the challenger can be judged."""
    if found is None:
        return []
    sides = (found.challenger, found.champion)
    answers = policy.min_rows - min(s.milliseconds.size for s in sides)
    labels = MIN_LABELLED - min(s.losses.size for s in sides)
    missing = []
    if answers > 0:
        missing.append(f"{answers} more answers are needed to judge its latency.")
    if labels > 0:
        missing.append(f"{labels} more labels on each side are needed to judge its losses.")
    return missing


@dataclass(frozen=True)
class ContestantProgress:
    """One challenger; `better` and `worse` are shares of the evidence that decides, 0 to 1."""

    name: str
    loss: float
    better: float
    worse: float
    needs: str


def contest_values(contest: ContestRow | None, policy: Contest) -> dict[str, Any] | None:
    """What the page shows of a contest; None without one."""
    if contest is None:
        return None
    decision = (
        msgspec.convert(dict(contest.decision), ContestDecision) if contest.decision else None
    )
    until = contest.opened + seconds(policy.age) if policy.age is not None else None
    contestants = decision.contestants if decision else ()
    return {
        "row": contest,
        "decision": decision,
        "policy": policy,
        "until": until if contest.state == "open" else None,
        "lines": [_progress(each, decision, policy) for each in contestants if decision],
    }


def _progress(found: Contestant, decision: ContestDecision, policy: Contest) -> ContestantProgress:
    better, worse = (
        min(max(value / decision.bar, 0.0), 1.0) for value in (found.better, found.worse)
    )
    text = describe_progress(found, decision, policy)
    return ContestantProgress(found.name, found.loss, better, worse, text)


def describe_progress(found: Contestant, decision: ContestDecision, policy: Contest) -> str:
    """What a challenger needs to win, or why it cannot."""
    if decision.state != "open":
        return "It won." if decision.winner == found.name else "It did not win."
    rows, left = decision.rows, policy.rows - decision.rows
    if rows < policy.fewest:
        return f"{policy.fewest - rows} more labels before any challenger can win."
    if found.worse >= decision.bar:
        return "It is worse than the champion."
    if found.loss >= decision.champion_loss:
        half = policy.rows // 2 - rows
        when = f"in {half} labels" if half > 0 else f"in {left} labels at most"
        return f"It is not ahead. If no challenger is, the champion stays {when}."
    if found.better <= 0:
        return f"Its lead is too small to judge; {left} labels are left."
    more = math.ceil((decision.bar - found.better) * rows / found.better)
    if more > left:
        return (
            f"At this rate about {more} more labels; {left} are left, so the champion would stay."
        )
    return f"At this rate about {more} more labels to win."
