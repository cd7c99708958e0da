"""`tidemill demo`: the whole path once, with a table of what happened."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.context import HomeOption, JsonOption, find_project, open_settings, start_logs
from tidemill.cli.demo.traffic import AnswerCounts, constant_traffic, request_prediction
from tidemill.cli.local import process_specs
from tidemill.cli.local.greeting import example_request, is_answering
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Supervisor, supervising
from tidemill.errors import GateError, UnavailableError

if TYPE_CHECKING:
    from tidemill.settings import Settings

KEYS = "step, result, seconds; with --url: what, method, path, curl, status, ok, answer"
SWAP_SECONDS = 20.0
#: A forest too small to pass the gate: it is promoted by override, so that there is one to beat.
SEEDLING = ["random_forest.n_estimators=1", "random_forest.max_depth=1"]


def register(app: typer.Typer) -> None:
    command_help.add(
        app,
        demo,
        command_help.BEGIN,
        keys=KEYS,
        many=True,
        gated=True,
    )


@dataclass
class StepLog:
    """What happened, step by step, with the seconds each took."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Time a step; its result is said by calling what the block is given."""
        began, said = time.monotonic(), [""]
        terminal.err.print(f"[dim]{what} ...[/]")
        yield lambda text: said.__setitem__(0, text)
        self.rows.append((what, said[0], time.monotonic() - began))


def demo(
    home: HomeOption = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Turn the truth around, and let the loop answer.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Ask a running API for one of each thing instead.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --url: the model to ask. [default: the API's own]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMILL_API_KEY", help="With --url: an API key. [default: the home's own]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train two systems, promote, serve, predict, and swap a better version in under load.

    With --drift: serve one system under load, turn the truth around, and watch the loop detect it,
    retrain, compare and swap.

    Uses a scratch folder and free ports, starts the same programs as `up`, and leaves nothing
    behind (with --home, the folder stays).

    With --url: starts nothing, but asks a running API for its health, models, predictions, lists
    and metrics, and shows what is sent and what comes back. Exit 1 when an answer is not the one
    to expect. Its predictions are marked as probes, which monitoring leaves out.

    Examples:

      tidemill demo

      tidemill demo --drift

      tidemill demo --home /tmp/look-around

      tidemill demo --url http://127.0.0.1:8000 --key "$(cat .tidemill/key)"
    """
    if url is not None:
        _ask_all(url, key or process_specs.own_key(open_settings(home)), model, as_json)
        return
    with contextlib.ExitStack() as stack:
        place = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemill-")))
        if drift:
            from tidemill.cli.demo.drift import drift_demo

            line = drift_demo(place, quiet=as_json)
            if as_json:
                terminal.print_json([_fact(what, how, at) for at, what, how in line.rows])
            return
        settings = open_settings(place / ".tidemill")
        at = ServerAddresses(port=free_port(), mlflow_port=free_port())
        start_logs(settings, "demo")
        stack.enter_context(process_specs.lock_home(settings.home, at))
        supervisor = stack.enter_context(supervising())
        story = StepLog()
        _tell(story, supervisor, settings, at)
        if as_json:
            terminal.print_json([_fact(*row) for row in story.rows])
        else:
            terminal.print_table(["step", "result", "seconds"], story.rows, "What happened")


def _fact(step: str, result: str, seconds: float) -> dict[str, Any]:
    return {"step": step, "result": result, "seconds": round(seconds, 3)}


def _ask_all(url: str, key: str | None, model: str | None, as_json: bool) -> None:
    """Walk through a running API; exit 1 where an answer is not the one to expect."""
    from tidemill.cli.demo.client import ApiWalkthrough, Exchange

    def tell(found: Exchange) -> None:
        if as_json:
            return
        colour = "green" if found.ok else "red"
        terminal.out.print(f"\n[bold]{found.what}[/]")
        terminal.out.print(f"$ {found.curl}", markup=False, soft_wrap=True)
        terminal.out.print(f"[{colour}]{found.status or 'no answer'}[/] ", end="")
        terminal.out.print(found.answer, markup=False, soft_wrap=True)

    found = list(ApiWalkthrough(url, key, tell).walk(model))
    wrong = [each.path for each in found if not each.ok]
    if as_json:
        terminal.print_json(found)
    elif wrong:
        terminal.err.print(f"Not as expected: {', '.join(wrong)}.", markup=False)
    else:
        terminal.out.print(f"\nAll {len(found)} answers are as they should be.")
    if wrong:
        raise typer.Exit(command_help.Exit.FAILED)


def _tell(story: StepLog, supervisor: Supervisor, settings: Settings, at: ServerAddresses) -> None:
    key = process_specs.ensure_key(settings)[0].read_text()
    supervisor.start(process_specs.api_server(settings, at))
    _train(story, settings, "gallery:breast_cancer", [])
    iris, seedling = _train(story, settings, "gallery:iris", SEEDLING)
    supervisor.start(process_specs.sync(settings, []))
    supervisor.start(process_specs.worker(settings))
    supervisor.start(process_specs.mlflow_server(settings, at))
    url = f"{at.api}/models/{iris}/predict"
    with story.step("serve both") as say:
        supervisor.wait_until(lambda: _is_served(settings, 2), "Serving", 60)
        supervisor.wait_until(lambda: is_answering(f"{at.api}/ready"), "Serving", 60)
        say(f"at {at.api}")
    for name in _names(settings):
        with story.step(f"predict with {name}") as say:
            body = example_request(settings.shelf, name)[1]
            answer = request_prediction(f"{at.api}/models/{name}/predict", key, body)
            say(f"{answer['prediction']} ({answer.get('confidence', 1):.2f}), v{answer['version']}")
    body = example_request(settings.shelf, iris)[1]
    better = str(int(seedling) + 1)
    with constant_traffic(url, key, body, better) as tally:
        _train(story, settings, "gallery:iris", [])
        with story.step("hot swap under load") as say:
            _await_swap(supervisor, tally, better)
            say(_swap_text(tally))
    if tally.failures:
        raise UnavailableError(
            f"{len(tally.failures)} requests failed during the swap: {tally.failures[0]}"
        )
    with story.step("MLflow's UI") as say:
        supervisor.wait_until(lambda: is_answering(f"{at.mlflow}/health"), "MLflow", 120)
        say(f"answered at {at.mlflow}")


def _train(
    story: StepLog, settings: Settings, reference: str, overrides: list[str]
) -> tuple[str, str]:
    """Train and promote; the model's name and the version."""
    from tidemill.cli.commands.models import gate_version
    from tidemill.cli.commands.train import train_project

    project = find_project(reference, settings)
    only = sorted({text.split(".")[0] for text in overrides})
    with story.step(f"train {project.name}") as say:
        result = train_project(project, settings, overrides=overrides, only=only)
        say(f"v{result.version}: {result.trial} of {len(result.trials)} trials")
    with story.step(f"promote {project.name} v{result.version}") as say:
        force = {"force": True, "reason": "something for the demo to improve on"}
        options = force if overrides else {}
        verdict = gate_version(settings, project.name, project, version=result.version, **options)
        if not verdict.promoted:
            raise GateError(" ".join(verdict.reasons))
        how = "against the gate, by override" if verdict.forced else "through the gate"
        say(f"{how}: {verdict.metric} {verdict.metrics[verdict.metric]:.4f}")
    return project.name, str(result.version)


def _await_swap(supervisor: Supervisor, tally: AnswerCounts, version: str) -> None:
    supervisor.wait_until(tally.seen.is_set, f"Version {version}", SWAP_SECONDS)
    time.sleep(0.5)  # let the new version answer for a while before the count is read


def _swap_text(tally: AnswerCounts) -> str:
    answered = ", ".join(f"v{version} {count}" for version, count in sorted(tally.versions.items()))
    return f"{sum(tally.versions.values())} answers ({answered}), {len(tally.failures)} failed"


def _names(settings: Settings) -> list[str]:
    from tidemill.serving.shelf.shelf import read_state

    return sorted(read_state(settings.shelf).models)


def _is_served(settings: Settings, count: int) -> bool:
    return len(_names(settings)) >= count


def free_port() -> int:
    """A port that nobody holds just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
