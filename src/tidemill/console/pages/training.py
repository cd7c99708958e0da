"""Start a training with a form generated from the candidates' parameters."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from tidemill.border import check_integer
from tidemill.console import queries
from tidemill.console.page_request import PageRequest
from tidemill.console.responses import redirect, show_page
from tidemill.errors import RequestError, TidemillError
from tidemill.loop.training.submit import training_job
from tidemill.project import Candidate, Project
from tidemill.steps.search.parameters import parameter_type, parse_overrides

KINDS = {
    "train": "Train: register the best as a new version",
    "retrain": "Retrain: also promote the new version if the gate allows it",
}
SIMPLE = (bool, int, float, str)


@dataclass(frozen=True)
class ParameterField:
    """A parameter of a candidate as a form field; left empty, it has the value in `usual`."""

    name: str
    label: str
    usual: str
    expected: str
    given: str = ""


def training_form(request: PageRequest) -> Response:
    """The form with the candidates of the model in the query, or of the first one."""
    known = queries.projects(request)
    name = request.query.get("model") or next(iter(known.value or {}), None)
    project = request.context.platform.projects.get(name).project if name else None
    return _form(request, project)


def submit_training(request: PageRequest) -> Response:
    """Submit the job, or show the form again with the error."""
    platform, form = request.context.platform, request.form_fields
    known = platform.projects.get(form.get("model") or None)
    try:
        kind = form.get("kind", "train")
        if kind not in KINDS:
            raise RequestError(f"'{kind}' is not a kind of training.", field="kind")
        texts = [
            f"{name.removeprefix('set.')}={value}"
            for name, value in form.items()
            if name.startswith("set.") and value.strip()
        ]
        new = training_job(
            kind,
            known,
            parse_overrides(known.project, texts),
            only=_chosen(known.project, form),
            trials=parse_trials(form.get("trials", "")),
            key_id=request.user.key_id,
            request_id=request.request_id,
        )
    except TidemillError as error:
        return _form(request, known.project, error)
    job, _ = platform.submit(new)
    return redirect(request, f"/console/jobs/{job.id}", "The training is queued.")


def _form(
    request: PageRequest, project: Project | None, problem: TidemillError | None = None
) -> Response:
    known = queries.projects(request)
    given = request.form_fields
    values = {
        "known": known,
        "project": project,
        "kinds": KINDS,
        "kind": given.get("kind", "train"),
        "trials": given.get("trials", ""),
        "problem": problem,
        "candidates": [
            {
                "name": candidate.name,
                "estimator": getattr(candidate.estimator, "__name__", candidate.name),
                "fields": fields_of(candidate, given),
                "chosen": not given or given.get(f"use.{candidate.name}") == "yes",
            }
            for candidate in (project.candidates if project else ())
        ],
    }
    return show_page(request, "train.html", values, problem.status if problem else 200)


def fields_of(candidate: Candidate, given: Any) -> list[ParameterField]:
    """The parameters of the form: searched ones, fixed ones, then those with simple defaults."""
    accepted = candidate.parameters() or {}
    first = [
        *candidate.search,
        *(name for name in candidate.params if name not in candidate.search),
    ]
    others = [name for name, value in accepted.items() if isinstance(value, SIMPLE)]
    names = [*first, *(name for name in others if name not in first)]
    return [_field(candidate, name, accepted, given) for name in names]


def _field(candidate: Candidate, name: str, accepted: Any, given: Any) -> ParameterField:
    key = f"set.{candidate.name}.{name}"
    if name in candidate.search:
        values = candidate.search[name]
        listed = " to ".join(map(str, values)) if isinstance(values, tuple) else _listed(values)
        usual = f"searched: {listed}"
    else:
        default = candidate.params.get(name, accepted.get(name, inspect.Parameter.empty))
        usual = "the estimator's default" if default is inspect.Parameter.empty else str(default)
    return ParameterField(
        key, name, usual, parameter_type(candidate, name).describe(), given.get(key, "")
    )


def _listed(values: Any) -> str:
    shown = [str(value) for value in list(values)[:6]]
    return ", ".join(shown) + (", ..." if len(values) > 6 else "")


def _chosen(project: Project, form: Any) -> list[str] | None:
    """The ticked candidates; None if all are ticked."""
    chosen = [c.name for c in project.candidates if form.get(f"use.{c.name}") == "yes"]
    if not chosen:
        raise RequestError("Choose at least one candidate.", field="candidates")
    return None if len(chosen) == len(project.candidates) else chosen


def parse_trials(text: str) -> int | None:
    if not text.strip():
        return None
    return check_integer(text.strip(), "trials", low=1, high=10_000)
