"""Retraining as a job: one contest, however often its worker dies."""

from __future__ import annotations

from functools import partial
from typing import Any

from tidemill.errors import BundleError, NotFoundError
from tidemill.loop.promotion.challenge import end_canary
from tidemill.loop.promotion.promote import GATE_TAG, ROLLED_BACK_TAG, promote
from tidemill.loop.retraining.challengers import RetrainingResult, retrain
from tidemill.loop.retraining.contest_bundles import cached_bundle
from tidemill.loop.retraining.feedback_data import RetrainingData, gather_retraining_data
from tidemill.loop.retraining.scheduler import CHANGED, POSTPONED
from tidemill.loop.training.progress import Progress
from tidemill.platform import Platform
from tidemill.project import Project
from tidemill.steps.decay.holdout import read_holdout
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.mlflow.versions import CHAMPION, ModelVersion
from tidemill.stores.model_metrics import record_metrics
from tidemill.stores.retraining.contests import ContestChallenger, ContestRow, NewContest
from tidemill.worker.job_kinds import (
    JOB_TAG,
    JobReport,
    ReportProgress,
    clean_up,
    load_job_project,
    with_job_tag,
)
from tidemill.worker.training import job_report, run_train

#: What counts as a sign that the champion got worse.
SUSPICIONS = ("decay", "estimate")


def run_retrain(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Learn from what came back labelled, too, and let the new versions compete with the champion.

    Without labelled predictions, or without a champion, the new version goes to the gate. Too soon
    after a change nothing is trained; `tidemill.loop.retraining.scheduler` asks again.
    """
    opened = platform.contests.by_job(job.id)
    if opened is None:
        project = load_job_project(job)
        champion = _champion(platform, project.name)
        situation = None if champion is None else _situation(platform, job, project, champion)
        if champion is None or situation is None or situation.lessons is None:
            return _retrain_for_the_gate(platform, job, report)
        waiting = _waiting(platform, job, project, situation)
        if waiting is not None:
            return {"model": project.name, POSTPONED: waiting}
        opened = _open(platform, job, project, champion, situation, report)
    report(JobReport(97.0, "promote", job.progress or {}))
    decision = platform.contest_service.judge(opened.model)
    new = next(c for c in opened.challengers if not c.former)
    best = platform.registry.version(opened.model, new.version)
    return {
        "model": opened.model,
        "version": best.number,
        "run_id": best.run_id,
        "candidate": best.candidate,
        "metrics": dict(best.metrics),
        "contest": {
            "id": opened.id,
            "state": opened.state if decision is None else decision.state,
            "reason": "" if decision is None else decision.reason,
            "challengers": [challenger.name for challenger in opened.challengers],
        },
    }


def _champion(platform: Platform, model: str) -> ModelVersion | None:
    try:
        return platform.registry.by_alias(model, CHAMPION)
    except NotFoundError:
        return None


def _situation(
    platform: Platform, job: Job, project: Project, champion: ModelVersion
) -> RetrainingData | None:
    """What there is to learn from; None where the champion has no bundle to compare with."""
    try:
        held = cached_bundle(platform.registry, project.name, champion.number, platform.bundles)
    except (BundleError, NotFoundError):
        return None
    return gather_retraining_data(
        platform.predictions,
        project,
        champion=champion.number,
        holdout=read_holdout(held.profile()),
        newest=platform.contests.newest(project.name),
        suspicious=_cause(platform, job) in SUSPICIONS,
        changed=job.params.get(CHANGED),
    )


def _cause(platform: Platform, job: Job) -> str:
    trigger = job.params.get("trigger")
    try:
        return "manual" if trigger is None else platform.triggers.get(str(trigger)).cause
    except NotFoundError:
        return "manual"


def _waiting(
    platform: Platform, job: Job, project: Project, situation: RetrainingData
) -> dict[str, Any] | None:
    """What an automatic retraining waits for, where a change is too recent to learn from."""
    assert situation.lessons is not None
    since, needed = situation.since, project.contest.wait
    if since is None or since >= needed or _cause(platform, job) not in SUSPICIONS:
        return None
    return {"rows": since, "needed": needed, CHANGED: situation.lessons.changed}


def _open(
    platform: Platform,
    job: Job,
    project: Project,
    champion: ModelVersion,
    situation: RetrainingData,
    report: ReportProgress,
) -> ContestRow:
    """Train, register, and open the contest, which is the last step and counts."""
    assert situation.lessons is not None
    if job.attempts > 1:
        clean_up(platform, job, report)
        _discard(platform, job)
    result = _retrain(platform, job, project, situation, report)
    for fresh in result.challengers:
        record_metrics(
            platform.database, project.name, fresh.version, fresh.metrics, source="training",
            run_id=fresh.run_id,
        )  # fmt: skip
    new = [ContestChallenger(fresh.version, fresh.window) for fresh in result.challengers]
    former = _former(platform, project, champion)
    lessons = situation.lessons
    opened = platform.contests.open(
        NewContest(
            model=project.name,
            champion=champion.number,
            challengers=(*new, *former),
            cut=lessons.cut,
            learned=situation.since if situation.since is not None else len(lessons.times),
            scale=situation.scale,
            changed=lessons.changed,
            trigger_id=job.params.get("trigger"),
            job_id=job.id,
        )
    )
    end_canary(
        platform.settings.shelf,
        project.name,
        reason=f"Version {new[0].version} is challenger now; the share was given to another.",
        audit=platform.audit.append,
    )
    platform.registry.set_challenger(platform.registry.version(project.name, new[0].version))
    return opened


def _retrain(
    platform: Platform,
    job: Job,
    project: Project,
    situation: RetrainingData,
    report: ReportProgress,
) -> RetrainingResult:
    def forward(progress: Progress) -> None:
        report(job_report(progress))

    assert situation.lessons is not None
    settings = platform.settings
    return retrain(
        with_job_tag(project, job),
        situation.lessons,
        tracking_uri=settings.mlflow_uri,
        registry_uri=settings.registry_uri,
        artifact_root=settings.artifact_root,
        overrides=job.params.get("overrides") or {},
        trials=job.params.get("trials"),
        only=job.params.get("only") or (),
        on_progress=forward,
    )


def _former(
    platform: Platform, project: Project, champion: ModelVersion
) -> list[ContestChallenger]:
    """Former champions, newest first, that take the same inputs: old conditions may be back."""
    own = cached_bundle(
        platform.registry, project.name, champion.number, platform.bundles
    ).signature
    found: list[ContestChallenger] = []
    for version in platform.registry.versions(project.name):
        if len(found) == project.contest.archived:
            break
        if version.stage != "Archived" or version.tags.get(ROLLED_BACK_TAG):
            continue
        try:
            held = cached_bundle(platform.registry, project.name, version.number, platform.bundles)
        except (BundleError, NotFoundError):
            continue
        theirs = held.signature
        alike = set(theirs.names) <= set(own.names) and theirs.tensor == own.tensor
        if alike and (theirs.task, theirs.target) == (own.task, own.target):
            found.append(ContestChallenger(version.number, "former champion", former=True))
    return found


def _discard(platform: Platform, job: Job) -> None:
    """Take away the versions that an earlier attempt registered before its worker died."""
    client = platform.tracking
    for version in client.search_model_versions(f"tags.`{JOB_TAG}` = '{job.id}'"):
        client.delete_model_version(version.name, version.version)


def _retrain_for_the_gate(platform: Platform, job: Job, report: ReportProgress) -> dict[str, Any]:
    """Train, and let the new version try to become champion; it stays challenger if it may not."""
    result = run_train(platform, job, report)
    report(JobReport(97.0, "promote", job.progress or {}))
    return result | {"gate": _gate(platform, job, str(result["version"]))}


def _gate(platform: Platform, job: Job, number: str) -> dict[str, Any]:
    """The gate's verdict on the version, asked for once: an earlier attempt may have been there."""
    registry = platform.registry
    version = registry.version(str(job.model), number)
    if CHAMPION in version.aliases:
        return {"promoted": True}
    if version.tags.get(f"{GATE_TAG}verdict") == "failed":
        return {"promoted": False, "reasons": [version.tags.get(f"{GATE_TAG}reason", "")]}
    verdict = promote(
        load_job_project(job),
        registry,
        version.name,
        version=number,
        reason=job.params.get("reason"),
        actor=f"job:{job.id}",
        audit=partial(platform.audit_transition, origin="worker"),
    )
    return {"promoted": verdict.promoted, "reasons": list(verdict.reasons)}
