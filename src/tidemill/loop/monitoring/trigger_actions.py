"""Follow up triggers: write their files, submit their retraining jobs, close them after failures.

Every step looks at what was done and completes it, so it can be repeated at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tidemill.errors import NotFoundError, ProjectError
from tidemill.loop.monitoring.trigger_files import TriggerFiles
from tidemill.loop.retraining.jobs import Submit, read_retraining_result, submit_retraining
from tidemill.stores.jobs.jobs import Job
from tidemill.stores.monitoring.triggers import NewTrigger, Trigger, Triggers, TriggerState


@dataclass(frozen=True)
class TriggerActions:
    """Follows up the triggers of models.

    Attributes:
        submit: Submits a job.
        job: Returns a job by its id.
        reference: Returns the reference of the project that trains a model.
    """

    triggers: Triggers
    submit: Submit
    job: Callable[[str], Job]
    reference: Callable[[str], str]
    files: TriggerFiles

    def complete(self, model: str) -> None:
        """Do what the open triggers of a model still lack."""
        for trigger in self.triggers.opened(model):
            self.files.write(trigger)
            if not trigger.retrains:
                continue
            if trigger.job_id is None:
                self.retrain(trigger)
            else:
                self._close_if_ended(trigger)
        self.files.refresh(model)

    def request(self, new: NewTrigger) -> Trigger:
        """Open a manual trigger and submit its retraining.

        The evidence may have fields of the job, under `tidemill.loop.retraining.jobs.JOB_FIELDS`.

        Raises:
            ConflictError: The model is being retrained.
            NotFoundError: No known project trains the model.
        """
        self.reference(new.model)
        self.complete(new.model)  # a retraining that has ended is no conflict
        trigger = self.triggers.open(new)
        self.files.write(trigger)
        return self.retrain(trigger)

    def retrain(self, trigger: Trigger) -> Trigger:
        """Submit the trigger's job, once however often it is called."""
        try:
            project = self.reference(trigger.model)
        except (NotFoundError, ProjectError) as error:
            return self.triggers.close(trigger.id, "failed", {"error": str(error)})
        return submit_retraining(self.submit, self.triggers, trigger, project)

    def _close_if_ended(self, trigger: Trigger) -> None:
        """Close a trigger whose job ended, unless a contest or a postponement keeps it open."""
        try:
            job = self.job(str(trigger.job_id))
        except NotFoundError:
            self.triggers.close(trigger.id, "failed", {"error": "Its job no longer exists."})
            return
        if not job.done:
            return
        if job.state != "succeeded":
            error = dict(job.error) if job.error else {"detail": f"The job was {job.state}."}
            self.triggers.close(trigger.id, "failed", {"error": error})
            return
        result = read_retraining_result(job.result)
        if result.contest is not None or result.postponed is not None:
            return
        promoted = result.gate is not None and result.gate.promoted
        evidence = {} if result.gate is None else msgspec.to_builtins(result.gate)
        state: TriggerState = "promoted" if promoted else "kept champion"
        self.triggers.close(trigger.id, state, {"gate": evidence})
