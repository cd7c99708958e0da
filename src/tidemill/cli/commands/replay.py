"""`tidemill replay`: a labelled table played through the running loop, and what that was worth."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli import command_help, terminal
from tidemill.cli.commands.demo import free_port
from tidemill.cli.context import JsonOption, open_settings, start_logs
from tidemill.cli.local import process_specs
from tidemill.cli.local.background import client_of, start, storing
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, StopRequestedError, Supervisor, supervising
from tidemill.errors import ConflictError, GateError, ProjectError, TidemillError

if TYPE_CHECKING:
    from tidemill.loop.replay.player import ReplayPace, ReplayPlayer, ReplayRecord
    from tidemill.loop.replay.report import ReplayReport
    from tidemill.loop.replay.setup import ReplaySetup
    from tidemill.loop.training.train import TrainResult
    from tidemill.platform import Platform
    from tidemill.settings import Settings

FEWEST_BETWEEN = 200  # rows
SCHEDULES = 20  # retrainings of the schedule that the loop is compared with


REPLAY_KEYS = (
    "source, model, task, verdict, interrupted, stopped, warmup, rows, pace, predictions_sent, "
    "predictions_stored, labels_sent, labels_stored, rows_refused, requests_failed, "
    "seconds, ways, events, versions"
)


def register(app: typer.Typer) -> None:
    command_help.add(app, replay, command_help.BEGIN, keys=REPLAY_KEYS, gated=True)


@dataclass(frozen=True)
class ReplayOptions:
    """What the command line says about a replay."""

    file: Path
    project: str | None
    target: str | None
    time: str | None
    warmup: int | None
    every: int | None
    pace: ReplayPace
    apart: bool = False  # whether ingest is a process of its own
    database: str | None = None  # another one than SQLite in the replay's home


def replay(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, labels included.")],
    project: Annotated[
        str | None,
        typer.Option("--project", "-p", help="A project file or gallery:NAME. [default: one made]"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict, where no project says it.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="The column that orders the rows. [default: as they come]")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="Rows to train on first. [default: a tenth, 500 to 5,000]", min=50),
    ] = None,
    label_delay: Annotated[
        int, typer.Option(help="So many rows later a row's label comes.", min=0)
    ] = 200,
    batch: Annotated[int, typer.Option(help="Rows a request.", min=1, max=5000)] = 25,
    look: Annotated[int, typer.Option(help="Batches between looks at the model.", min=1)] = 4,
    every: Annotated[
        int | None,
        typer.Option(help="Rows between retrainings of the schedule compared with.", min=1),
    ] = None,
    speed: Annotated[str, typer.Option(help="Only 'max': as fast as it goes.")] = "max",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report and state.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play a labelled table, in the order of time, through the running loop, and report its worth.

    A first champion is trained on the warm-up and served. The other rows are predicted over HTTP,
    their labels follow; drift and decay are watched, models retrained by a worker, compared, and
    swapped in while requests go on. The report sets the loop against the first champion left alone
    and against retraining on a fixed schedule. Ctrl-C reports on what was played so far; so does a
    replay that cannot go on, before it says why.

    Examples:

      tidemill replay electricity.csv --target class

      tidemill replay loans.csv --project churn/project.py --time date --label-delay 500
    """
    from tidemill.loop.replay.player import ReplayPace

    if speed != "max":
        raise ProjectError(f"There is no speed '{speed}'.", field="speed", expected="max")
    if project is not None and target is not None:
        raise ProjectError("A project says its target itself.", field="target")
    folder = output or Path(f"replay-{file.stem}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is there already.", remedy="Name another with --output.")
    pace = ReplayPace(batch, label_delay, look)
    options = ReplayOptions(file, project, target, time, warmup, every, pace)
    report = run(options, folder)
    paths = report.write(folder)
    if as_json:
        terminal.print_json(report.document)
    else:
        _print(report)
        terminal.out.print(f"\nThe report is in {paths[1]} and {paths[0]}.", markup=False)
    if report.trouble is not None:
        raise report.trouble


def run(
    options: ReplayOptions, folder: Path, *, during: Callable[[Any], None] | None = None
) -> ReplayReport:
    """Play a table in a home of its own below `folder`.

    Args:
        during: Is given the stage when all is running, before the first row; for tests that
            disturb it.
    """
    from tidemill.loop.replay.setup import prepare_replay

    folder = folder.resolve()  # its project is named to processes that run elsewhere
    with terminal.err.status("Reading the table ..."):
        staged = prepare_replay(
            options.file,
            folder,
            project=options.project,
            target=options.target,
            time=options.time,
            warmup=options.warmup,
        )
    home = folder / "home"
    at = ServerAddresses(port=free_port(), mlflow_port=free_port())
    with _nobody_elses(home, options.database), process_specs.lock_home(home, at):
        settings = open_settings(home, project=str(staged.reference), api_rate_limit="off")
        start_logs(settings, "replay")
        first = _train(staged, settings)
        with supervising() as supervisor:
            return _play(options, staged, settings, at, first, supervisor, during)
    raise TidemillError("The replay was stopped before its first row.")


@contextlib.contextmanager
def _nobody_elses(home: Path, database: str | None) -> Iterator[None]:
    """Keep to the replay's home, whatever environment and tidemill.toml say of other places."""
    from tidemill.stores.database.database import Database
    from tidemill.stores.database.schema import migrate

    home.mkdir(parents=True, exist_ok=True)
    places = {
        "TIDEMILL_DATABASE_URL": database or f"sqlite:///{home / 'tidemill.db'}",
        "TIDEMILL_BROKER_URL": f"filesystem://{home / 'broker'}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "MLFLOW_REGISTRY_URI": f"sqlite:///{home / 'mlflow.db'}",
    }
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    try:
        with contextlib.closing(Database(places["TIDEMILL_DATABASE_URL"])) as made:
            migrate(made)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _train(staged: ReplaySetup, settings: Settings) -> TrainResult:
    """The first champion: the best of the warm-up, whatever the gate's minimum says."""
    from tidemill.cli.commands.models import gate_version
    from tidemill.cli.commands.train import train_project

    result = train_project(staged.project, settings)
    name = staged.project.name
    verdict = gate_version(
        settings, name, staged.project, version=result.version, force=True,
        reason="the first champion of a replay",
    )  # fmt: skip
    if not verdict.promoted:
        raise GateError(" ".join(verdict.reasons))
    return result


@dataclass(frozen=True)
class ReplayProcesses:
    """What runs while a table is played."""

    platform: Platform
    player: ReplayPlayer
    supervisor: Supervisor
    children: dict[str, Child]


def _play(
    options: ReplayOptions,
    staged: ReplaySetup,
    settings: Settings,
    at: ServerAddresses,
    first: TrainResult,
    supervisor: Supervisor,
    during: Callable[[Any], None] | None,
) -> ReplayReport:
    from tidemill.loop.replay.report import make_report
    from tidemill.loop.retraining.contest_bundles import cached_bundle
    from tidemill.platform import Platform

    key = process_specs.ensure_key(settings)[0].read_text()
    children = start(supervisor, settings, at, apart=options.apart)
    with contextlib.closing(Platform.open(settings)) as platform, client_of(at, key) as client:
        original = cached_bundle(
            platform.registry, staged.project.name, first.version, platform.bundles
        )
        with _bar() as (tell, total), storing(settings, apart=options.apart) as store:
            player = _player(
                staged, options.pace, client, platform, original.signature, store, supervisor, tell
            )
            total(player.total)
            if during is not None:
                during(ReplayProcesses(platform, player, supervisor, children))
            record, trouble = _record(player)
        supervisor.stop()  # nobody is asked any more, and the schedules need the processors
        alternatives = _alternatives(options, staged, original, record, first)
    return make_report(
        record, staged, options.pace, alternatives, source=options.file.name, trouble=trouble
    )


def _player(
    staged: ReplaySetup,
    pace: ReplayPace,
    client: Any,
    platform: Platform,
    signature: Any,
    store: Callable[[], None],
    supervisor: Supervisor,
    tell: Callable[[int], None],
) -> ReplayPlayer:
    from tidemill.loop.replay.player import ReplayPlayer, ReplayStores
    from tidemill.stores.mlflow.versions import CHAMPION

    model = staged.project.name
    watcher = platform.watcher

    def champion() -> str:
        found = platform.registry.by_alias(model, CHAMPION)
        assert found is not None, "the first champion was promoted"
        return found.number

    return ReplayPlayer(
        staged=staged,
        pace=pace,
        client=client,
        stores=ReplayStores(
            platform.predictions, platform.feedback, platform.jobs, platform.triggers,
            platform.contests,
        ),
        signature=signature,
        store=store,
        look=lambda: watcher.tick(model),
        champion=champion,
        attend=supervisor.check,
        tell=tell,
    )  # fmt: skip


def _record(player: ReplayPlayer) -> tuple[ReplayRecord, Exception | None]:
    """Play to the end, or to what stops it: a signal, or trouble that is not outlasted.

    Raises:
        Exception: The trouble, where it came before the first answer.
    """
    try:
        return player.play(), None
    except StopRequestedError:
        terminal.err.print("Stopped; the report is about what was played.")
        why, trouble = "It was interrupted.", None
    except Exception as error:
        if not player.record.sent:
            raise
        terminal.err.print("It cannot go on; the report is about what was played.")
        why, trouble = str(error), error
    with contextlib.suppress(TidemillError):  # the report is worth more than these two counts
        player.count()
    return replace(player.record, interrupted=True, stopped=why), trouble


def _alternatives(
    options: ReplayOptions,
    staged: ReplaySetup,
    original: Any,
    record: ReplayRecord,
    first: TrainResult,
) -> list[Any]:
    """The first champion left alone, and two schedules; without those that a Ctrl-C cuts short."""
    from tidemill.loop.replay.baselines import on_schedule, without_retraining
    from tidemill.loop.replay.player import answers_of
    from tidemill.metrics import is_better

    _, answered = answers_of(record, staged)
    found = [without_retraining(staged, original, answered)]
    if record.interrupted or not answered.any():
        return found
    best: dict[str, Any] = {}
    for trial in first.trials:
        value = trial.metrics.get(first.metric)
        held = best.get(trial.candidate)
        if value is not None and (held is None or is_better(first.metric, value, held[0])):
            best[trial.candidate] = (value, trial.params)
    settings = {name: params for name, (_, params) in best.items()}
    live = len(staged.frame) - staged.warmup
    every = options.every or max(FEWEST_BETWEEN, live // SCHEDULES)
    with _bar("schedule") as (tell, total), contextlib.suppress(StopRequestedError):
        total(2 * len(answered))
        for number, last in enumerate((None, max(staged.warmup, 2000))):
            found.append(
                on_schedule(
                    staged, answered, settings, every=every, delay=options.pace.delay,
                    batch=options.pace.batch, last=last,
                    tell=lambda rows, n=number: tell(n * len(answered) + rows),  # type: ignore[misc]
                )
            )  # fmt: skip
    return found


@contextlib.contextmanager
def _bar(what: str = "playing") -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A bar: how to say how many rows are done, and how many there are."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=terminal.err) as bar:
        task = bar.add_task(what, total=None)
        yield (
            lambda rows: bar.update(task, completed=rows),
            lambda rows: bar.update(task, total=rows),
        )


def _print(report: ReplayReport) -> None:
    rows = [(c.name, f"{c.loss:.4f}", c.retrainings, f"{c.seconds:.1f}") for c in report.courses]
    terminal.print_table(["", "loss", "retrainings", "seconds"], rows, "What each way came to")
    for event in report.document["events"]:
        terminal.out.print(f"{event['row']:>8,}  {event['kind']:8} {event['text']}", markup=False)
    terminal.out.print(f"\n{report.sentence}", markup=False)
