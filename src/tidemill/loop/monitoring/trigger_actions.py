"""What follows from a trigger: its file, its retraining job, and its end when the job ends badly.

Each step looks at what is there and does what is missing, so that it can be repeated at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.errors import NotFoundError, ProjectError
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.stores.jobs.jobs import Job, NewJob
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers

logger = logging.getLogger(__name__)

#: What a person who asks for a retraining wants of its job: `params`, limits, `key_id` ...
ORDER = "order"

Submit = Callable[[NewJob], tuple[Job, bool]]


@dataclass(frozen=True)
class TriggerActions:
    """Sees to the triggers of a model.

    Attributes:
        submit: Accepts a job.
        job: Gives a job by its id.
        place: Where a worker finds the project that trains a model.
    """

    triggers: Triggers
    submit: Submit
    job: Callable[[str], Job]
    place: Callable[[str], str]
    files: TriggerFiles

    def follow(self, model: str) -> None:
        """Do what the open triggers of a model still lack."""
        for trigger in self.triggers.opened(model):
            self.files.write(trigger)
            if not trigger.retrains:
                continue
            if trigger.job_id is None:
                self.retrain(trigger)
            else:
                self._settle(trigger)
        self.files.refresh(model)

    def ask(self, new: NewTrigger) -> Trigger:
        """Open a trigger by hand and begin its retraining.

        What the job is to be given beside the trigger is in the evidence, under `ORDER`.

        Raises:
            ConflictError: The model is being retrained.
            NotFoundError: No project here trains the model.
        """
        self.place(new.model)
        self.follow(new.model)  # what has ended must not stand in the way
        trigger = self.triggers.open(new)
        self.files.write(trigger)
        return self.retrain(trigger)

    def retrain(self, trigger: Trigger) -> Trigger:
        """Submit the trigger's job, once however often it is asked."""
        try:
            project = self.place(trigger.model)
        except (NotFoundError, ProjectError) as error:
            return self.triggers.close(trigger.id, "failed", {"error": str(error)})
        order = dict(trigger.evidence.get(ORDER) or {})
        params = dict(order.pop("params", {}))
        job, _ = self.submit(
            NewJob(
                "retrain",
                trigger.model,
                project=project,
                params={**params, "trigger": trigger.id, "reason": trigger.reason},
                idempotency_key=f"trigger:{trigger.id}",
                **order,
            )
        )
        logger.info("%s is retrained by job %s: %s", trigger.model, job.id, trigger.reason)
        return self.triggers.start(trigger.id, job.id)

    def _settle(self, trigger: Trigger) -> None:
        """Close a trigger whose job ended for good; a contest, or labels to come, keep it open."""
        try:
            job = self.job(str(trigger.job_id))
        except NotFoundError:
            self.triggers.close(trigger.id, "failed", {"error": "Its job is gone."})
            return
        if not job.done:
            return
        result: Mapping[str, Any] = job.result or {}
        if job.state == "succeeded" and ("contest" in result or "postponed" in result):
            return
        if job.state == "succeeded":
            gate: Mapping[str, Any] = result.get("gate") or {}
            state = "promoted" if gate.get("promoted") else "kept champion"
            self.triggers.close(trigger.id, state, {"gate": dict(gate)})  # type: ignore[arg-type]
        else:
            error = dict(job.error) if job.error else {"detail": f"The job was {job.state}."}
            self.triggers.close(trigger.id, "failed", {"error": error})
