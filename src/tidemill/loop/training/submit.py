"""The job of a training, as the API and the console submit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.stores.jobs.jobs import NewJob
from tidemill.stores.projects import KnownProject


def training_job(
    kind: str,
    known: KnownProject,
    overrides: Mapping[str, Mapping[str, Any]],
    *,
    only: Sequence[str] | None = None,
    trials: int | None = None,
    **more: Any,
) -> NewJob:
    """Build the job that trains a registered project.

    Args:
        kind: "train", or "retrain" to also compete with the champion.
        overrides: Checked parameters by candidate; see `tidemill.steps.search.parameters`.
        only: The candidates to try; None means all.
        trials: How many settings of each candidate to try; None uses the project's numbers.
        more: Other fields of the job: limits, the API key, the request's id.

    Raises:
        ProjectError: `only` names an unknown candidate.
    """
    for name in only or ():
        known.project.candidate(name)
    params = {
        "overrides": overrides,
        "only": None if only is None else list(only),
        "trials": trials,
    }
    return NewJob(
        kind=kind, model=known.project.name, project=known.reference, params=params, **more
    )
