"""The model registry in MLflow: versions, their aliases and stages, and the bundles behind them.

registry = Registry("sqlite:///.tidemill/mlflow.db")
version = registry.resolve("models:/iris-classifier@champion")
bundle = registry.fetch_bundle(version, Path("somewhere")) See decision 043.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tidemill import bundle
from tidemill.bundle import Bundle
from tidemill.errors import BundleError, ConflictError, NotFoundError
from tidemill.stores.mlflow.connection import MlflowConnection
from tidemill.stores.mlflow.versions import (
    ALIAS_OF_STAGE,
    BUNDLE_PATH_TAG,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    STAGE_TAG,
    ModelReference,
    ModelVersion,
    RegisteredModel,
    Stage,
    is_version_number,
    parse_reference,
    read_model,
    read_version,
)

logger = logging.getLogger(__name__)

BUNDLE_PATH = "bundle"
PAGE_SIZE = 200
RUNS_PER_QUERY = 50
TAG_BYTES = 5000  # MLflow refuses longer values


class Registry:
    """MLflow's registry, and the runs behind its versions.

    Args:
        tracking_uri: The store of runs and their artifacts.
        registry_uri: The store of registered models; None means the tracking store.
        probe_seconds: How long a server may take to accept a connection.

    Every method raises UnavailableError within seconds if MLflow cannot be reached.
    """

    def __init__(
        self, tracking_uri: str, registry_uri: str | None = None, *, probe_seconds: float = 2.0
    ) -> None:
        self._connection = MlflowConnection(tracking_uri, registry_uri, probe_seconds=probe_seconds)

    @property
    def connection(self) -> MlflowConnection:
        """The connection to MLflow."""
        return self._connection

    # Reading

    def models(self, tag: tuple[str, str] | None = None) -> list[RegisteredModel]:
        """Return all registered models by name, or those with a tag (key, value)."""
        where = f"tags.`{tag[0]}` = {_literal(tag[1])}" if tag else None
        found = self._connection.pages(
            lambda client, token: client.search_registered_models(
                where, max_results=PAGE_SIZE, order_by=["name ASC"], page_token=token
            )
        )
        return [read_model(entity) for entity in found]

    def identity(self) -> str | None:
        """What tells this registry from one that was created again: when its store was created.

        None if the store has no default experiment, so that nothing is known.
        """
        try:
            first = self._connection.call(lambda client: client.get_experiment("0"))
        except (NotFoundError, ConflictError):
            return None
        return f"created at {first.creation_time}" if first.creation_time else None

    def model(self, name: str) -> RegisteredModel:
        """Return a registered model.

        Raises:
            NotFoundError: There is no such model; the remedy lists those that exist.
        """
        try:
            entity = self._connection.call(lambda client: client.get_registered_model(name))
        except (NotFoundError, ConflictError) as error:
            raise self._no_model(name) from error
        return read_model(entity)

    def versions(self, name: str, *, metrics: bool = False) -> list[ModelVersion]:
        """Return all versions of a model, newest first, with their runs' metrics if `metrics`.

        Raises:
            NotFoundError: There is no such model.
        """
        aliases = self.model(name).aliases
        found = [read_version(entity, aliases) for entity in self._entities(name)]
        return self._with_metrics(found) if metrics else found

    def version(self, name: str, number: str | int) -> ModelVersion:
        """Return a version with its metrics.

        Raises:
            NotFoundError: There is no such model or version; the remedy lists those that exist.
        """
        aliases = self.model(name).aliases
        if not is_version_number(str(number)):
            raise self._no_version(name, str(number)[:40])
        try:
            entity = self._connection.call(
                lambda client: client.get_model_version(name, str(number))
            )
        except (NotFoundError, ConflictError) as error:
            raise self._no_version(name, str(number)) from error
        return self._with_metrics([read_version(entity, aliases)])[0]

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias points at, without metrics; one cheap call.

        Raises:
            NotFoundError: There is no such model.
        """
        try:
            entity = self._connection.call(
                lambda client: client.get_model_version_by_alias(name, alias)
            )
        except ConflictError:
            return None
        except NotFoundError as error:
            raise self._no_model(name) from error
        number = str(entity.version)
        return read_version(entity, dict.fromkeys([alias, *entity.aliases], number))

    def resolve(
        self,
        reference: ModelReference | str,
        *,
        stage: str | None = None,
        follow: Literal["champion", "latest"] = "champion",
    ) -> ModelVersion:
        """Return the version that a reference names.

        A plain name means the champion. If nothing was ever promoted, or with `follow="latest"`, it
        means the newest version that has a bundle (the newest of all if none has one).

        Args:
            stage: A stage or alias for a plain name, as in `MODEL_STAGE`.

        Raises:
            NotFoundError: There is no such model or version; the remedy lists what exists.
        """
        parsed = parse_reference(reference) if isinstance(reference, str) else reference
        if parsed.version is not None:
            return self.version(parsed.name, parsed.version)
        if parsed.alias is not None:
            return self._require_alias(parsed.name, parsed.alias)
        chosen = parsed.stage or stage
        if chosen and chosen.lower() != "latest":
            return self._by_stage(parsed.name, chosen)
        if follow == "champion" and not chosen:
            champion = self.by_alias(parsed.name, CHAMPION)
            if champion is not None:
                return champion
            logger.debug("%s has no champion; using its latest version", parsed.name)
        return self.latest(parsed.name)

    def latest(self, name: str) -> ModelVersion:
        """Return the newest version that has a bundle; the newest of all if none has one.

        Raises:
            NotFoundError: There is no such model, or it has no versions.
        """
        aliases = self.model(name).aliases
        newest = None
        for entity in self._entities(name):
            version = read_version(entity, aliases)
            if version.digest is not None:
                return version
            newest = newest or version
        if newest is None:
            raise NotFoundError(f"'{name}' has no versions.", remedy="Run `tidemill train`.")
        return newest

    def run_tags(self, version: ModelVersion) -> dict[str, str]:
        """Return the tags of the run that trained a version; empty if there is no such run."""
        try:
            return dict(self._get_run(version.run_id).data.tags) if version.run_id else {}
        except NotFoundError:
            return {}

    # Writing

    def set_champion(self, version: ModelVersion) -> ModelVersion | None:
        """Make a version champion; the former champion becomes `previous` and Archived.

        The alias `champion` moves in one step and is never absent. The other aliases and tags are
        set before it, where they have no effect if the call is interrupted, or after it. Calling
        again with the same version completes an interrupted call.

        Returns:
            The former champion; None if there was none or it is the same version.
        """
        old = self.by_alias(version.name, CHAMPION)
        replaced = old if old is not None and old.number != version.number else None
        if replaced is not None:
            self._set_alias(version.name, PREVIOUS, replaced.number)
        self.set_tags(version, {STAGE_TAG: "Production"})
        self._set_alias(version.name, CHAMPION, version.number)
        self._remove_alias(version, CHALLENGER)
        if replaced is not None:
            self.set_tags(replaced, {STAGE_TAG: "Archived"})
        self._relabel_others(version, "Production", "Archived")
        return replaced

    def set_challenger(self, version: ModelVersion) -> None:
        """Make a version challenger (Staging); a former challenger goes back to stage None.

        Raises:
            ConflictError: The version is the champion.
        """
        self._refuse_champion(version, "Staging")
        self.set_tags(version, {STAGE_TAG: "Staging"})
        self._set_alias(version.name, CHALLENGER, version.number)
        self._relabel_others(version, "Staging", "None")

    def retire(
        self, version: ModelVersion, stage: Literal["None", "Archived"] = "Archived"
    ) -> None:
        """Remove a version's challenger alias and set its stage.

        Raises:
            ConflictError: The version is the champion; promote another one first.
        """
        self._refuse_champion(version, stage)
        self._remove_alias(version, CHALLENGER)
        self.set_tags(version, {STAGE_TAG: stage})

    def set_tags(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags of a version; values longer than MLflow accepts are cut."""
        for key, value in tags.items():
            self._set_tag(version, key, value.encode()[:TAG_BYTES].decode(errors="ignore"))

    def log_evidence(
        self, version: ModelVersion, path: str, document: Mapping[str, Any]
    ) -> str | None:
        """Store a JSON document among the artifacts of the version's run.

        Returns:
            Its URI; None if the version has no run.
        """
        if version.run_id is None:
            return None
        run_id, content = version.run_id, dict(document)
        self._connection.call(lambda client: client.log_dict(run_id, content, path))
        return f"runs:/{run_id}/{path}"

    # Bundles

    def fetch_bundle(self, version: ModelVersion, into: Path) -> Bundle:
        """Download a version's bundle through MLflow into the folder `into`, and verify it.

        Raises:
            NotFoundError: The version has no bundle.
            BundleError: The bundle is gone, or its digest is not the version's.
        """
        if version.digest is None or version.run_id is None:
            raise NotFoundError(
                f"Version {version.number} of '{version.name}' has no bundle.",
                remedy="Versions trained with `tidemill train` have one.",
            )
        run_id, path = version.run_id, version.tags.get(BUNDLE_PATH_TAG, BUNDLE_PATH)
        into.mkdir(parents=True, exist_ok=True)
        try:
            folder = self._connection.call(
                lambda client: client.download_artifacts(run_id, path, str(into))
            )
        except NotFoundError as error:
            raise BundleError(
                f"The bundle of version {version.number} of '{version.name}' is gone: run "
                f"{run_id} has no artifacts under '{path}'."
            ) from error
        try:
            return bundle.read(Path(folder), digest=version.digest)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _entities(self, name: str, more: str = "") -> Iterator[Any]:
        """Yield MLflow's versions of a model, newest first."""
        return self._connection.pages(
            lambda client, token: client.search_model_versions(
                f"name = {_literal(name)}{more}",
                max_results=PAGE_SIZE,
                order_by=["version_number DESC"],
                page_token=token,
            )
        )

    def _with_metrics(self, versions: list[ModelVersion]) -> list[ModelVersion]:
        found = self._metrics({v.run_id for v in versions if v.run_id})
        return [replace(v, metrics=found.get(v.run_id or "", {})) for v in versions]

    def _metrics(self, runs: set[str]) -> dict[str, dict[str, float]]:
        """Return the metrics of runs, with a few queries per experiment instead of one per run."""
        metrics: dict[str, dict[str, float]] = {}
        while remaining := sorted(runs - metrics.keys()):
            try:
                first = self._get_run(remaining[0])
            except NotFoundError:
                metrics[remaining[0]] = {}
                continue
            metrics[remaining[0]] = dict(first.data.metrics)
            for start in range(1, len(remaining), RUNS_PER_QUERY):
                batch = remaining[start : start + RUNS_PER_QUERY]
                metrics |= self._metrics_in(first.info.experiment_id, batch)
        return metrics

    def _metrics_in(self, experiment: str, runs: Sequence[str]) -> dict[str, dict[str, float]]:
        where = f"attributes.run_id IN ({', '.join(map(_literal, runs))})"
        found = self._connection.pages(
            lambda client, token: client.search_runs(
                [experiment], where, max_results=PAGE_SIZE, page_token=token
            )
        )
        return {run.info.run_id: dict(run.data.metrics) for run in found}

    def _get_run(self, run_id: str) -> Any:
        return self._connection.call(lambda client: client.get_run(run_id))

    def _require_alias(self, name: str, alias: str) -> ModelVersion:
        version = self.by_alias(name, alias)
        if version is None:
            known = ", ".join(sorted(self.model(name).aliases)) or "none"
            raise NotFoundError(
                f"'{name}' has no alias '{alias}'.",
                expected=known,
                remedy=f"Its aliases: {known}. Promote a version with `tidemill promote {name}`.",
            )
        return version

    def _by_stage(self, name: str, stage: str) -> ModelVersion:
        """Find a version by the alias of a stage, else by the stage tag or MLflow's own stage."""
        version = self.by_alias(name, ALIAS_OF_STAGE.get(stage.lower(), stage))
        if version is not None:
            return version
        for candidate in self.versions(name):
            if candidate.stage.lower() == stage.lower():
                return candidate
        raise NotFoundError(
            f"'{name}' has no version in stage '{stage}'.",
            remedy=f"Promote one with `tidemill promote {name}`.",
        )

    def _set_tag(self, version: ModelVersion, key: str, value: str) -> None:
        self._connection.call(
            lambda client: client.set_model_version_tag(version.name, version.number, key, value)
        )

    def _set_alias(self, name: str, alias: str, number: str) -> None:
        self._connection.call(lambda client: client.set_registered_model_alias(name, alias, number))

    def _remove_alias(self, version: ModelVersion, alias: str) -> None:
        holder = self.by_alias(version.name, alias)
        if holder is not None and holder.number == version.number:
            self._connection.call(
                lambda client: client.delete_registered_model_alias(version.name, alias)
            )

    def _relabel_others(self, version: ModelVersion, old: Stage, new: Stage) -> None:
        """Change the stage of all other versions that still have a stage only one may have."""
        more = f" AND tags.`{STAGE_TAG}` = '{old}'"
        for entity in list(self._entities(version.name, more)):
            if str(entity.version) != version.number:
                self.set_tags(read_version(entity, {}), {STAGE_TAG: new})

    def _refuse_champion(self, version: ModelVersion, stage: str) -> None:
        champion = self.by_alias(version.name, CHAMPION)
        if champion is not None and champion.number == version.number:
            raise ConflictError(
                f"Version {version.number} of '{version.name}' is the champion and cannot become "
                f"{stage}.",
                remedy="Promote another version first.",
            )

    def _no_model(self, name: str) -> NotFoundError:
        names = [model.name for model in self.models()]
        known = (
            f"Known models: {', '.join(names[:20])}." if names else "No model is registered yet."
        )
        return NotFoundError(f"There is no model '{name}'.", remedy=known)

    def _no_version(self, name: str, number: str) -> NotFoundError:
        numbers = [str(entity.version) for entity in self._entities(name)]
        known = f"Its versions: {', '.join(numbers[:20])}." if numbers else "It has no versions."
        return NotFoundError(f"'{name}' has no version {number}.", remedy=known)


def _literal(text: str) -> str:
    """Quote a string for MLflow's filter language."""
    return f'"{text}"' if "'" in text else f"'{text}'"
