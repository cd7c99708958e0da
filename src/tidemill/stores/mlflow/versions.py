"""Registered models and their versions as values: names, aliases, stages and references.

Aliases are the truth: `champion` is served, `challenger` may be served next, and a rollback returns
to `previous`. The stages of older MLflow mirror them in the tag `stage`: Production = champion,
Staging = challenger; Archived and None have no alias.
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
    """A reference to one version; at most one of version, alias and stage is set."""

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
    """A registered version of a model.

    Attributes:
        digest: The digest of its bundle; None if it was registered without one.
        run_id: The run that trained it and holds its bundle and the gate's evidence.
        stage: None, Staging, Production or Archived, from the aliases and the stage tag.
        created: In seconds since the epoch.
        metrics: The run's metrics on held-out rows; empty if they were not requested.
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
    """Parse `models:/name/3`, `models:/name@alias`, `models:/name/Stage`, `name` or `name@alias`.

    Raises:
        NotFoundError: The text has none of these forms.
    """
    match = re.fullmatch(r"(?:models:/+)?([^/:@]+)(?:@([^/:@]+)|/([^/:@]+))?", text.strip())
    if match is None:
        raise NotFoundError(
            f"'{text}' is not a reference to a model.",
            expected="a name, models:/name/3, models:/name@alias or models:/name/Production",
        )
    name, alias, last = match.groups()
    if last is None:
        return ModelReference(name, alias=alias)
    return (
        ModelReference(name, version=last) if last.isdigit() else ModelReference(name, stage=last)
    )


def is_version_number(text: str) -> bool:
    """Whether MLflow's column of version numbers, of 32 bits, can hold it."""
    return re.fullmatch("[0-9]{1,10}", text) is not None and int(text) < 2**31


def read_model(entity: Any) -> RegisteredModel:
    """Convert MLflow's registered model."""
    aliases = {alias: str(number) for alias, number in dict(entity.aliases).items()}
    return RegisteredModel(entity.name, aliases, entity.description or "", dict(entity.tags))


def read_version(entity: Any, aliases: Mapping[str, str]) -> ModelVersion:
    """Convert MLflow's model version; `aliases` maps the model's aliases to version numbers."""
    tags, number = dict(entity.tags), str(entity.version)
    own = tuple(sorted(alias for alias, holder in aliases.items() if holder == number))
    recorded = tags.get(STAGE_TAG) or getattr(entity, "current_stage", None)
    return ModelVersion(
        name=entity.name,
        number=number,
        digest=tags.get(BUNDLE_TAG) or None,
        run_id=tags.get(RUN_TAG) or entity.run_id or None,
        candidate=tags.get(CANDIDATE_TAG),
        stage=_stage(own, recorded, aliases),
        aliases=own,
        description=entity.description or "",
        source=entity.source or "",
        status=str(entity.status),
        created=entity.creation_timestamp / 1000,
        tags=tags,
    )


def _stage(own: Iterable[str], recorded: str | None, taken: Iterable[str]) -> Stage:
    """Return a version's stage: from its own aliases, else from its tag or MLflow's own stage.

    A recorded stage whose alias points at another version is out of date.
    """
    for alias in own:
        if alias in STAGE_OF_ALIAS:
            return STAGE_OF_ALIAS[alias]
    stage: Stage = next((stage for stage in STAGES if recorded == stage), "None")
    if stage == "Production" and CHAMPION in taken:
        return "Archived"
    if stage == "Staging" and CHALLENGER in taken:
        return "None"
    return stage
