"""Promotion, rollback and transitions, on a real MLflow store with real ONNX bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
from mlflow import MlflowClient
from onnx import TensorProto, helper

from tidemill import bundle
from tidemill.bundle import (
    Bundle,
    Example,
    FileEntry,
    Manifest,
    ModelInput,
    ModelOutputs,
    Parity,
    RowPrediction,
)
from tidemill.errors import ConflictError, GateError, NotFoundError, ProjectError
from tidemill.loop.promotion.bundle_evaluation import accepted_rows, evaluate_bundle
from tidemill.loop.promotion.promote import promote
from tidemill.loop.promotion.transitions import Transition, rollback, transition
from tidemill.project import Candidate, Gate, Project
from tidemill.signature import Column, Signature
from tidemill.steps.data.prepare import prepare
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

pytestmark = pytest.mark.filterwarnings(  # MLflow's own mappers, under SQLAlchemy 2.1
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

LABELS = ("no", "yes")
COLUMNS = (Column("a", "number"), Column("b", "number"))
BEST, FAIR, POOR = (3.0, 1.5), (3.0, 0.0), (0.0, 3.0)


def rows(count: int = 1000, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    a, b, noise = random.normal(size=(3, count))
    truth = a + 0.5 * b + 0.3 * noise > 0
    return pd.DataFrame({"a": a, "b": b, "y": np.where(truth, "yes", "no")})


def linear_model(weights: Sequence[float]) -> bytes:
    """Probabilities [rows, 2] of a logistic regression, as an ONNX file."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", floats, [None, len(weights)])],
        [helper.make_tensor_value_info("probabilities", floats, [None, 2])],
        [
            helper.make_tensor("w", floats, [len(weights), 1], list(weights)),
            helper.make_tensor("one", floats, [1], [1.0]),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def make_bundle(
    folder: Path,
    weights: Sequence[float],
    *,
    columns: tuple[Column, ...] = COLUMNS,
    parity: Parity | None = Parity(200, True, 1e-7),  # noqa: B008
    target: str = "y",
) -> Bundle:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(linear_model(weights))
    signature = Signature("classification", target, columns, labels=LABELS)
    (folder / bundle.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    (folder / bundle.PROFILE).write_bytes(b"{}")
    table = rows(5)[["a", "b"]].to_numpy()
    yes = 1 / (1 + np.exp(-(table.astype(np.float32) @ np.array(weights))))
    answers = [RowPrediction(LABELS[int(p > 0.5)], (1 - p, p)) for p in yes.tolist()]
    example = Example(tuple(map(tuple, table.tolist())), tuple(answers))
    (folder / bundle.EXAMPLE).write_bytes(msgspec.json.encode(example))
    names = tuple(c.name for c in columns)
    manifest = Manifest(
        format=bundle.FORMAT,
        model="m",
        created="2026-01-01T00:00:00Z",
        runtime="onnx",
        files=dict[str, FileEntry](),
        inputs=(ModelInput("x", "float32", names),),
        outputs=ModelOutputs(probabilities="probabilities"),
        parity=parity,
    )
    return bundle.seal(folder, manifest)


def project_of(frame: pd.DataFrame, **settings: Any) -> Project:
    return Project(
        name="m",
        data=lambda: frame,
        target="y",
        task="classification",
        candidates=[Candidate("linear", dict)],
        gate=settings.pop("gate", Gate(metric="accuracy")),
        **settings,
    )


@pytest.fixture
def project() -> Project:
    return project_of(rows())


@pytest.fixture
def uri(tmp_path: Path, mlflow_template: Path) -> str:
    """A fresh MLflow store."""
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


Register = Callable[..., ModelVersion]


@pytest.fixture
def register(
    client: MlflowClient, registry: Registry, project: Project, tmp_path: Path
) -> Register:
    """register(weights, accuracy, data): a trained version of the model `m`.

    `weights` None registers one without a bundle; `data` is the project it was trained on.
    """
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    client.create_registered_model("m")
    count = iter(range(1000))

    def register(
        weights: Sequence[float] | None = BEST,
        accuracy: float | None = 0.9,
        data: Project | None = project,
        **bundled: Any,
    ) -> ModelVersion:
        run = client.create_run(experiment)
        if accuracy is not None:
            client.log_metric(run.info.run_id, "accuracy", accuracy)
        if data is not None:
            held_out = prepare(data).test_fingerprint
            client.set_tag(run.info.run_id, "tidemill.test_fingerprint", held_out)
        tags = {}
        if weights is not None:
            made = make_bundle(tmp_path / "made" / str(next(count)), weights, **bundled)
            client.log_artifacts(run.info.run_id, str(made.path), "bundle")
            tags = {"tidemill.bundle": made.digest}
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version("m", source, run.info.run_id, tags=tags)
        return registry.version("m", version.version)

    return register


def champion(registry: Registry) -> str | None:
    return registry.model("m").aliases.get("champion")


def test_the_first_version_becomes_champion_with_its_evidence(
    project: Project, registry: Registry, register: Register, client: MlflowClient, tmp_path: Path
) -> None:
    version = register()
    changes: list[Transition] = []
    verdict = promote(project, registry, "m", actor="ann", audit=changes.append)
    assert verdict.passed
    assert verdict.promoted
    assert (verdict.model, verdict.version, verdict.champion) == ("m", "1", None)
    assert verdict.rows == 200
    assert 0.85 < verdict.metrics["accuracy"] < 1
    assert verdict.latency_ms is not None
    assert 0 < verdict.latency_ms < 1000
    assert champion(registry) == "1"
    (change,) = changes
    assert (change.actor, change.action, change.version) == ("ann", "promote", "1")
    assert (change.origin, change.stage, change.replaced) == ("None", "Production", None)
    assert change.evidence == msgspec.to_builtins(verdict)
    json.dumps(change.evidence, allow_nan=False)
    tags = registry.version("m", 1).tags
    assert tags["tidemill.gate.verdict"] == "passed"
    assert tags["tidemill.gate.evidence"] == f"runs:/{version.run_id}/gate/evidence-v1.json"
    kept = client.download_artifacts(str(version.run_id), "gate/evidence-v1.json", str(tmp_path))
    document = json.loads(Path(kept).read_text())
    assert document["verdict"] == json.loads(json.dumps(change.evidence))
    assert document["actor"] == "ann"
    assert document["bundle"] == version.digest


def test_a_better_version_takes_over_and_a_worse_one_does_not(
    project: Project, registry: Registry, register: Register
) -> None:
    register(FAIR, 0.8)
    promote(project, registry, "m")
    register(POOR, 0.7)
    worse = promote(project, registry, "m", version=2)
    assert not worse.passed
    assert not worse.promoted
    assert champion(registry) == "1"
    assert registry.version("m", 2).tags["tidemill.gate.verdict"] == "failed"
    assert "no better" in registry.version("m", 2).tags["tidemill.gate.reason"]
    register(BEST, 0.9)
    better = promote(project, registry, "m")
    assert better.promoted
    assert (better.version, better.champion) == ("3", "1")
    assert better.comparison is not None
    assert better.comparison.difference > 0.05
    tags = registry.version("m", 3).tags
    assert float(tags["tidemill.gate.difference"]) == pytest.approx(
        better.comparison.difference, rel=1e-4
    )
    assert tags["tidemill.gate.interval"].startswith("[")
    assert tags["tidemill.gate.champion"] == "1"
    stages = {v.number: v.stage for v in registry.versions("m")}
    assert stages == {"1": "Archived", "2": "None", "3": "Production"}
    assert registry.model("m").aliases == {"champion": "3", "previous": "1"}


def test_version_with_the_best_recorded_metric_goes_to_the_gate(
    project: Project, registry: Registry, register: Register
) -> None:
    for accuracy in (0.7, 0.95, 0.8, None):
        register(BEST, accuracy)
    assert promote(project, registry, "m").version == "2"


def test_named_metric_chooses_and_decides(
    project: Project, registry: Registry, register: Register, client: MlflowClient
) -> None:
    for accuracy, loss in ((0.9, 0.5), (0.8, 0.2), (0.7, 0.4)):
        version = register(BEST, accuracy)
        client.log_metric(str(version.run_id), "log_loss", loss)
    verdict = promote(project, registry, "m", metric="log_loss")
    assert verdict.version == "2", "the least loss is the best"
    assert verdict.metric == "log_loss"
    with pytest.raises(ProjectError, match="unknown metric"):
        promote(project, registry, "m", metric="beauty")


def test_ties_go_to_the_champion_then_to_the_newest(
    project: Project, registry: Registry, register: Register
) -> None:
    register(FAIR, 0.8)
    promote(project, registry, "m")
    register(BEST, 0.8)
    changes: list[Transition] = []
    assert promote(project, registry, "m", audit=changes.append).version == "1"
    assert not changes
    register(POOR, 0.9)
    register(BEST, 0.9)
    assert promote(project, registry, "m", audit=changes.append).version == "4"
    assert len(changes) == 1


def test_champion_is_not_compared_with_itself(
    project: Project, registry: Registry, register: Register
) -> None:
    register(BEST, 0.9)
    promote(project, registry, "m")
    verdict = promote(project, registry, "m")
    assert not verdict.promoted
    assert "has the best accuracy: 0.9" in verdict.reasons[0]
    with pytest.raises(ConflictError, match="already the champion"):
        promote(project, registry, "m", version=1)


def test_override_needs_a_reason_and_stores_the_verdict(
    project: Project, registry: Registry, register: Register
) -> None:
    register(BEST, 0.9)
    promote(project, registry, "m")
    register(POOR, 0.5)
    for reason in (None, "", "  "):
        with pytest.raises(GateError, match="needs a reason"):
            promote(project, registry, "m", version=2, force=True, reason=reason)
    assert champion(registry) == "1"
    changes: list[Transition] = []
    verdict = promote(
        project,
        registry,
        "m",
        version=2,
        force=True,
        reason="the old one offends",
        audit=changes.append,
    )
    assert (verdict.passed, verdict.forced, verdict.promoted) == (False, True, True)
    assert verdict.comparison is not None
    assert champion(registry) == "2"
    assert changes[0].action == "override"
    assert changes[0].reason == "the old one offends"
    assert changes[0].replaced == "1"
    assert registry.version("m", 2).tags["tidemill.gate.verdict"] == "overridden"


def test_forcing_what_would_pass_is_an_ordinary_promotion(
    project: Project, registry: Registry, register: Register
) -> None:
    register()
    changes: list[Transition] = []
    verdict = promote(project, registry, "m", force=True, reason="sure", audit=changes.append)
    assert (verdict.passed, verdict.forced) == (True, False)
    assert changes[0].action == "promote"


def test_version_without_a_bundle_needs_force(
    project: Project, registry: Registry, register: Register
) -> None:
    register(None, 0.9)
    verdict = promote(project, registry, "m")
    assert not verdict.promoted
    assert "has no bundle" in verdict.reasons[0]
    assert promote(project, registry, "m", force=True, reason="known good").promoted
    assert champion(registry) == "1"
    register(BEST, 0.95)
    against = promote(project, registry, "m")
    assert not against.promoted, "what the champion answers cannot be known"
    assert "Version 1 of 'm' has no bundle" in against.reasons[0]


def test_without_a_project_force_or_rows_are_needed(registry: Registry, register: Register) -> None:
    register()
    verdict = promote(None, registry, "m", metric="accuracy")
    assert not verdict.promoted
    assert "no project is known" in verdict.reasons[0]
    verdict = promote(None, registry, "m", metric="accuracy", rows=rows(300, seed=5))
    assert verdict.promoted
    assert verdict.rows == 300
    assert "given by the caller" in verdict.notes[0]


def test_unknown_models_versions_and_metrics_are_refused(
    project: Project, registry: Registry, register: Register
) -> None:
    with pytest.raises(NotFoundError, match="no model 'other'"):
        promote(project, registry, "other")
    with pytest.raises(NotFoundError, match="has a recorded metric accuracy"):
        promote(project, registry, "m")
    register()
    with pytest.raises(NotFoundError, match="no version 7"):
        promote(project, registry, "m", version=7)


def test_damaged_bundle_is_refused(
    project: Project, registry: Registry, register: Register, tmp_path: Path
) -> None:
    register()
    (path,) = (tmp_path / "artifacts").rglob("model.onnx")
    path.write_bytes(linear_model(POOR))
    verdict = promote(project, registry, "m")
    assert not verdict.promoted
    assert "sha256" in verdict.reasons[0]


def test_minimum_metrics_and_parity_are_checked_for_the_first_version_too(
    registry: Registry, register: Register
) -> None:
    register(POOR)
    strict = project_of(rows(), gate=Gate(metric="accuracy", minimum={"accuracy": 0.8}))
    verdict = promote(strict, registry, "m")
    assert not verdict.promoted
    assert "at least 0.8 is required" in verdict.reasons[0]
    register(BEST, parity=None)
    assert "never compared" in promote(strict, registry, "m", version=2).reasons[0]
    assert champion(registry) is None


def test_promotion_that_cannot_be_audited_is_not_made(
    project: Project, registry: Registry, register: Register
) -> None:
    def broken(change: Transition) -> None:
        raise RuntimeError("the database is down")

    register()
    with pytest.raises(RuntimeError, match="database is down"):
        promote(project, registry, "m", audit=broken)
    assert champion(registry) is None


def test_failed_transition_is_recorded_as_failed(
    project: Project, registry: Registry, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    changes: list[Transition] = []

    def fails(version: ModelVersion) -> None:
        raise OSError("network gone")

    monkeypatch.setattr(registry, "set_champion", fails)
    with pytest.raises(OSError, match="network gone"):
        promote(project, registry, "m", audit=changes.append)
    assert [change.failed for change in changes] == [None, "network gone"]


def test_rollback_restores_the_previous_champion(
    project: Project, registry: Registry, register: Register
) -> None:
    register(FAIR, 0.8)
    promote(project, registry, "m")
    with pytest.raises(ConflictError, match="no previous champion"):
        rollback(registry, "m", reason="bad")
    register(BEST, 0.9)
    promote(project, registry, "m")
    changes: list[Transition] = []
    done = rollback(registry, "m", reason="bad smell", actor="bob", audit=changes.append)
    assert changes == [done]
    assert (done.action, done.version, done.replaced) == ("rollback", "1", "2")
    assert registry.model("m").aliases == {"champion": "1", "previous": "2"}
    assert registry.version("m", 2).stage == "Archived"
    again = promote(project, registry, "m")
    assert not again.promoted, "what was rolled back is not taken again by itself"
    assert champion(registry) == "1"
    assert promote(project, registry, "m", version=2).promoted, "but by name it is"
    assert registry.version("m", 2).tags["tidemill.rolled_back"] == ""


def test_a_second_rollback_returns_to_the_version_rolled_back(
    project: Project, registry: Registry, register: Register
) -> None:
    for weights, accuracy in ((FAIR, 0.8), (BEST, 0.9)):
        register(weights, accuracy)
        promote(project, registry, "m")
    rollback(registry, "m", reason="one")
    rollback(registry, "m", reason="two")
    assert champion(registry) == "2"


def test_transition_moves_stage_and_alias(registry: Registry, register: Register) -> None:
    for _ in range(3):
        register()
    changes: list[Transition] = []
    made = transition(registry, "m", 1, "production", reason="start", audit=changes.append)
    assert (made.action, made.origin, made.stage) == ("override", "None", "Production")
    transition(registry, "m", "2", "Staging", actor="key1", audit=changes.append)
    transition(registry, "m", 3, "Archived", audit=changes.append)
    assert registry.model("m").aliases == {"champion": "1", "challenger": "2"}
    assert [v.stage for v in registry.versions("m")] == ["Archived", "Staging", "Production"]
    transition(registry, "m", 2, "None", audit=changes.append)
    assert registry.model("m").aliases == {"champion": "1"}
    assert [c.action for c in changes] == ["override", "transition", "transition", "transition"]
    assert changes[1].actor == "key1"


def test_invalid_transitions_are_refused(registry: Registry, register: Register) -> None:
    register()
    with pytest.raises(GateError, match="needs a reason"):
        transition(registry, "m", 1, "Production")
    with pytest.raises(ConflictError, match="'Shipped' is not a stage"):
        transition(registry, "m", 1, "Shipped")
    with pytest.raises(ConflictError, match="in stage None already"):
        transition(registry, "m", 1, "None")
    with pytest.raises(NotFoundError):
        transition(registry, "m", 9, "Staging")
    transition(registry, "m", 1, "champion", reason="start")
    for stage in ("Archived", "Staging", "None"):
        with pytest.raises(ConflictError, match="is the champion"):
            transition(registry, "m", 1, stage)


# --- Fresh rows ---


def grown(frame: pd.DataFrame, count: int = 500) -> pd.DataFrame:
    return pd.concat([frame, rows(count, seed=77)], ignore_index=True)


def test_training_rows_of_the_champion_are_left_out(registry: Registry, register: Register) -> None:
    before = project_of(rows(1000))
    register(FAIR, 0.8, data=before)
    promote(before, registry, "m")
    assert "tidemill.split" in registry.version("m", 1).tags
    after = project_of(grown(rows(1000)))
    register(BEST, 0.9, data=after)
    verdict = promote(after, registry, "m")
    old, new = prepare(before), prepare(after)
    learned = old.train.merge(new.test, how="inner")
    assert len(learned) > 0, "the split moved a little, as it does"
    assert verdict.rows <= len(new.test) - len(learned)
    assert verdict.rows > 0.8 * len(new.test)
    assert any("was trained on them" in note for note in verdict.notes)
    assert verdict.promoted


def test_a_champion_of_unknown_rows_is_noted(registry: Registry, register: Register) -> None:
    before, after = project_of(rows(1000)), project_of(grown(rows(1000)))
    registry.set_champion(register(FAIR, 0.8, data=before))
    register(BEST, 0.9, data=after)
    verdict = promote(after, registry, "m")
    assert verdict.promoted
    assert any("which rows it held out is unknown" in note for note in verdict.notes)


def test_too_few_fresh_rows_are_refused(registry: Registry, register: Register) -> None:
    before = project_of(rows(300))
    register(FAIR, 0.8, data=before)
    promote(before, registry, "m")
    other_seed = project_of(rows(300), seed=7)
    register(BEST, 0.9, data=other_seed)
    verdict = promote(other_seed, registry, "m")
    assert not verdict.promoted
    assert "held-out rows are fresh" in verdict.reasons[0]


def test_rows_held_out_by_time_count_as_fresh_with_a_note(
    registry: Registry, register: Register
) -> None:
    before = project_of(rows(1000), shuffle=False)
    register(FAIR, 0.8, data=before)
    promote(before, registry, "m")
    after = project_of(grown(rows(1000)), shuffle=False)
    register(BEST, 0.9, data=after)
    verdict = promote(after, registry, "m")
    assert verdict.promoted
    assert any("only added at the end" in note for note in verdict.notes)


def test_rows_that_one_version_refuses_are_left_out_for_both(
    registry: Registry, register: Register
) -> None:
    frame = rows(1000)
    frame.loc[::10, "b"] = np.nan
    project = project_of(frame)
    nullable = (Column("a", "number"), Column("b", "number", nullable=True))
    registry.set_champion(register(FAIR, 0.8, data=project, columns=nullable))
    register(BEST, 0.9, data=project)
    verdict = promote(project, registry, "m")
    missing = int(prepare(project).test["b"].isna().sum())
    assert verdict.rows == 200 - missing
    assert any(f"{missing} rows were left out: the challenger refuses" in n for n in verdict.notes)


def test_versions_with_other_columns_or_target_are_not_compared(
    project: Project, registry: Registry, register: Register
) -> None:
    registry.set_champion(register(FAIR, 0.8, target="z"))
    register(BEST, 0.9)
    assert "cannot be compared" in promote(project, registry, "m").reasons[0]
    registry.set_champion(
        register(FAIR, 0.8, columns=(Column("a", "number"), Column("gone", "number")))
    )
    verdict = promote(project, registry, "m")
    assert not verdict.promoted
    assert "no column 'gone'" in verdict.reasons[0]


# --- What a bundle answers ---


def test_bundle_is_evaluated_as_it_is_served(tmp_path: Path) -> None:
    held = make_bundle(tmp_path / "b", BEST)
    frame = rows(5000)
    outcome = evaluate_bundle(held, frame)
    score = frame[["a", "b"]].to_numpy() @ np.array(BEST)
    expected = np.where(1 / (1 + np.exp(-score)) > 0.5, "yes", "no")
    assert (outcome.predicted == expected).mean() > 0.999
    assert outcome.probabilities is not None
    assert outcome.probabilities.shape == (5000, 2)
    assert outcome.labels == LABELS
    assert outcome.reproduced is True
    assert outcome.latency_ms is not None


def test_bundle_that_does_not_reproduce_its_example_is_marked(tmp_path: Path) -> None:
    held = make_bundle(tmp_path / "b", BEST)
    manifest = held.manifest
    (held.path / "model.onnx").write_bytes(linear_model((-3.0, -1.5)))
    (held.path / "manifest.json").unlink()
    outcome = evaluate_bundle(bundle.seal(held.path, manifest), rows(50))
    assert outcome.reproduced is False
    assert outcome.latency_ms is None


def test_accepted_rows_are_those_the_server_accepts() -> None:
    columns = (
        Column("number", "number"),
        Column("whole", "integer", nullable=True),
        Column("flag", "boolean", nullable=True),
        Column("text", "text", categories=("x", "y")),
        Column("free", "text", nullable=True),
    )
    signature = Signature("regression", "y", columns)
    good: dict[str, Any] = {"number": 1.5, "whole": 2.0, "flag": True, "text": "x", "free": "?"}
    bad: list[dict[str, Any]] = [
        {"number": np.nan},
        {"number": np.inf},
        {"whole": 2.5},
        {"text": "z"},
        {"text": None},
    ]
    fine: list[dict[str, Any]] = [{}, {"whole": np.nan}, {"flag": None}, {"free": None}]
    frame = pd.DataFrame([{**good, **change} for change in [*fine, *bad]])
    assert accepted_rows(frame, signature).tolist() == [True] * len(fine) + [False] * len(bad)
