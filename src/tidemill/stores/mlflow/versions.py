"""Registered versions as values: what they are called, what stage they are in, where they point.

Aliases are the truth: `champion` is what is served, `challenger` what may come next, `previous`
what a rollback returns to. The stage words of older MLflow mirror them in the tag `stage`:
Production = champion, Staging = challenger; Archived and None have no alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tidemill.errors import NotFoundError

Stage = Literal["None", "Staging", "Production", "Archived"]

STAGES: tuple[Stage, ...] = ("None", "Staging", "Production", "Archived")
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIAS_OF_STAGE = {"production": CHAMPION, "staging": CHALLENGER}
STAGE_OF_ALIAS: dict[str, Stage] = {CHAMPION: "Production", CHALLENGER: "Staging"}
STAGE_TAG = "stage"
BUNDLE_TAG = "tidemill.bundle"
BUNDLE_PATH_TAG = "tidemill.bundle_path"
RUN_TAG = "tidemill.run_id"
CANDIDATE_TAG = "tidemill.candidate"


@dataclass(frozen=True)
class ModelReference:
    """What a person wrote to mean one version; at most one of the last three is given."""

    name: str
    version: str | None = None
    alias: str | None = None
    stage: str | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"models:/{self.name}@{self.alias}"
        return "/".join(["models:", self.name, *filter(None, [self.version, self.stage])])


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
        digest: Of its bundle; None for a version that was registered without one.
        run_id: The run that made it, and that holds the bundle and the evidence.
        stage: None, Staging, Production or Archived, as the aliases and the stage tag say.
        created: In seconds since the epoch.
        metrics: On held-out rows, from the run; empty where they were not asked for.
    """

    name: str
    number: str
    digest: str | None = None
    run_id: str | None = None
    candidate: str | None = None
    stage: Stage = "None"
    aliases: tuple[str, ...] = ()
    description: str = ""
    source: str = ""
    status: str = "READY"
    created: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model; `aliases` maps each alias to a version's number."""

    name: str
    aliases: Mapping[str, str]
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


def parse_reference(text: str) -> ModelReference:
    """`models:/name/3`, `models:/name@alias`, `models:/name/Production`, `name`, `name@alias`.

    Raises:
        NotFoundError: The text has none of these forms.
    """
    match = re.fullmatch(r"(?:models:/+)?([^/:@]+)(?:@([^/:@]+)|/([^/:@]+))?", text.strip())
    if match is None:
        raise NotFoundError(
            f"'{text}' names no model.",
            expected="a name, models:/name/3, models:/name@alias or models:/name/Production",
        )
    name, alias, last = match.groups()
    if last is None:
        return ModelReference(name, alias=alias)
    return (
        ModelReference(name, version=last) if last.isdigit() else ModelReference(name, stage=last)
    )


def read_model(entity: Any) -> RegisteredModel:
    """MLflow's registered model as ours."""
    aliases = {alias: str(number) for alias, number in dict(entity.aliases).items()}
    return RegisteredModel(entity.name, aliases, entity.description or "", dict(entity.tags))


def read_version(entity: Any, aliases: Mapping[str, str]) -> ModelVersion:
    """MLflow's model version as ours; `aliases` are the model's, as version numbers by alias."""
    tags, number = dict(entity.tags), str(entity.version)
    own = tuple(sorted(alias for alias, holder in aliases.items() if holder == number))
    said = tags.get(STAGE_TAG) or getattr(entity, "current_stage", None)
    return ModelVersion(
        name=entity.name,
        number=number,
        digest=tags.get(BUNDLE_TAG) or None,
        run_id=tags.get(RUN_TAG) or entity.run_id or None,
        candidate=tags.get(CANDIDATE_TAG),
        stage=_stage(own, said, aliases),
        aliases=own,
        description=entity.description or "",
        source=entity.source or "",
        status=str(entity.status),
        created=entity.creation_timestamp / 1000,
        tags=tags,
    )


def _stage(own: Iterable[str], said: str | None, taken: Iterable[str]) -> Stage:
    """The version's own aliases decide; then its tag, or the stage of registries that used MLflow's
    own. A word whose alias another version holds is out of date."""
    for alias in own:
        if alias in STAGE_OF_ALIAS:
            return STAGE_OF_ALIAS[alias]
    stage: Stage = next((stage for stage in STAGES if said == stage), "None")
    if stage == "Production" and CHAMPION in taken:
        return "Archived"
    if stage == "Staging" and CHALLENGER in taken:
        return "None"
    return stage
