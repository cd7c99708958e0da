"""`tidemill demo`: from two trainings to a new version swapped in under load."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.addresses import open_url
from tidemill.cli import terminal
from tidemill.cli.context import find_project, open_settings, start_logs
from tidemill.cli.demo.traffic import AnswerCounts, constant_traffic, request_prediction
from tidemill.cli.gate import gate_version
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import example_request, is_answering
from tidemill.cli.local.home import ensure_key, lock_home
from tidemill.cli.local.ports import free_port
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, supervising
from tidemill.cli.training import train_project
from tidemill.errors import GateError, UnavailableError
from tidemill.settings import Settings

SWAP_SECONDS = 20.0
#: A forest too small to pass the gate: promoted by override, as a baseline to improve on.
TINY_FOREST = ["random_forest.n_estimators=1", "random_forest.max_depth=1"]

StepRow = tuple[str, str, float]


@dataclass
class StepLog:
    """The steps of the demo: what was done, the result, and the seconds it took."""

    rows: list[StepRow] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Time a step; the block calls the function it is given with the result's text."""
        started, result = time.monotonic(), [""]
        terminal.err.print(f"[dim]{what} ...[/]")
        yield lambda text: result.__setitem__(0, text)
        self.rows.append((what, result[0], time.monotonic() - started))


def hot_swap_demo(folder: Path) -> list[StepRow]:
    """Run the demo in a home below `folder`.

    Raises:
        GateError: A version that should pass the gate did not.
        UnavailableError: A process did not become ready, or a request failed during the swap.
    """
    settings = open_settings(folder / ".tidemill")
    at = ServerAddresses(port=free_port(), mlflow_port=free_port())
    start_logs(settings, "demo")
    log = StepLog()
    with lock_home(settings.home, at), supervising() as supervisor:
        _run(log, supervisor, settings, at)
    return log.rows


def _run(log: StepLog, supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> None:
    key = ensure_key(settings)[0].read_text()
    supervisor.start(process_specs.api_server(settings, at))
    _train(log, settings, "gallery:breast_cancer", [])
    iris, first_version = _train(log, settings, "gallery:iris", TINY_FOREST)
    supervisor.start(process_specs.sync(settings, []))
    supervisor.start(process_specs.worker(settings))
    supervisor.start(process_specs.mlflow_server(settings, at))
    with log.step("serve both") as result:
        supervisor.wait_until(lambda: len(_served_models(at)) >= 2, "Serving", 60)
        result(f"at {at.api}")
    for name in _served_models(at):
        _predict(log, settings, at, key, name)
    body = example_request(settings.shelf, iris)[1]
    better = str(int(first_version) + 1)
    with constant_traffic(f"{at.api}/models/{iris}/predict", key, body, better) as counts:
        _train(log, settings, "gallery:iris", [])
        with log.step("hot swap under load") as result:
            supervisor.wait_until(counts.swapped.is_set, f"Version {better}", SWAP_SECONDS)
            time.sleep(0.5)  # let the new version answer for a while before counting
            result(_describe_swap(counts))
    if counts.failures:
        raise UnavailableError(
            f"{len(counts.failures)} requests failed during the swap: {counts.failures[0]}"
        )
    with log.step("MLflow's UI") as result:
        supervisor.wait_until(lambda: is_answering(f"{at.mlflow}/health"), "MLflow", 120)
        result(f"answered at {at.mlflow}")


def _train(
    log: StepLog, settings: Settings, reference: str, overrides: list[str]
) -> tuple[str, str]:
    """Train and promote a project; returns the model's name and version."""
    project = find_project(reference, settings)
    only = sorted({text.split(".")[0] for text in overrides})
    with log.step(f"train {project.name}") as report:
        result = train_project(project, settings, overrides=overrides, only=only)
        report(f"v{result.version}: {result.trial} of {len(result.trials)} trials")
    with log.step(f"promote {project.name} v{result.version}") as report:
        force = {"force": True, "reason": "a baseline for the demo to improve on"}
        options = force if overrides else {}
        verdict = gate_version(settings, project.name, project, version=result.version, **options)
        if not verdict.promoted:
            raise GateError(" ".join(verdict.reasons))
        how = "by override" if verdict.forced else "through the gate"
        report(f"{how}: {verdict.metric} {verdict.metrics[verdict.metric]:.4f}")
    return project.name, str(result.version)


def _predict(log: StepLog, settings: Settings, at: ServerAddresses, key: str, name: str) -> None:
    with log.step(f"predict with {name}") as result:
        body = example_request(settings.shelf, name)[1]
        answer = request_prediction(f"{at.api}/models/{name}/predict", key, body)
        confidence = answer.get("confidence", 1)
        result(f"{answer['prediction']} ({confidence:.2f}), v{answer['version']}")


def _describe_swap(counts: AnswerCounts) -> str:
    versions = ", ".join(
        f"v{version} {count}" for version, count in sorted(counts.versions.items())
    )
    total = sum(counts.versions.values())
    return f"{total} answers ({versions}), {len(counts.failures)} failed"


def _served_models(at: ServerAddresses) -> list[str]:
    """The models in service; none while the server is not ready."""
    try:
        with open_url(f"{at.api}/ready", timeout=2) as answer:
            return sorted(json.load(answer)["models"])
    except OSError:
        return []
