"""Asking for a training, whoever asks: what the job's row says."""

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
    """A job that trains a known project.

    Args:
        kind: "train", or "retrain" to let the new version try to become champion.
        overrides: Checked parameters by candidate; see `tidemill.steps.search.parameters`.
        only: The candidates to try; None tries all.
        trials: Settings to try of each candidate; None takes the project's numbers.
        more: Other fields of the job: limits, the key that asked, the request's id.

    Raises:
        ProjectError: `only` names a candidate that the project has not.
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
