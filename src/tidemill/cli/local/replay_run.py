"""Run a replay: start the loop in a home of its own, play the table, and compute the baselines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidemill.addresses import folder_url
from tidemill.bundle import Bundle
from tidemill.cli import terminal
from tidemill.cli.context import open_settings, start_logs
from tidemill.cli.gate import gate_version
from tidemill.cli.local.home import ensure_key, lock_home
from tidemill.cli.local.loop_processes import ingesting, open_client, start_processes
from tidemill.cli.local.ports import free_port
from tidemill.cli.local.process_specs import ServerAddresses
from tidemill.cli.local.supervisor import Child, StopRequestedError, Supervisor, supervising
from tidemill.cli.training import train_project
from tidemill.errors import GateError, TidemillError
from tidemill.loop.replay.baselines import Baseline, on_schedule, without_retraining
from tidemill.loop.replay.player import ReplayPlayer, ReplayStores
from tidemill.loop.replay.record import ReplayPace, ReplayRecord, answers_of
from tidemill.loop.replay.report import ReplayReport, make_report
from tidemill.loop.replay.setup import ReplaySetup, prepare_replay
from tidemill.loop.training.train import TrainResult
from tidemill.metrics import is_better
from tidemill.platform import Platform
from tidemill.settings import Settings, sqlite_url
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.mlflow.versions import CHAMPION

MIN_ROWS_BETWEEN = 200
SCHEDULED_RETRAININGS = 20  # of the baselines, unless `every` is given


@dataclass(frozen=True)
class ReplayOptions:
    """The options of a replay, as `tidemill replay` takes them.

    Attributes:
        separate_ingest: Whether ingest runs as a process of its own.
        database: The database's URL; None for SQLite in the replay's home.
    """

    file: Path
    project: str | None
    target: str | None
    time: str | None
    warmup: int | None
    every: int | None
    pace: ReplayPace
    separate_ingest: bool = False
    database: str | None = None


@dataclass(frozen=True)
class ReplayProcesses:
    """What runs while a table is played."""

    platform: Platform
    player: ReplayPlayer
    supervisor: Supervisor
    children: dict[str, Child]


def run_replay(
    options: ReplayOptions,
    folder: Path,
    *,
    during: Callable[[ReplayProcesses], None] | None = None,
) -> ReplayReport:
    """Play a table in a home below `folder`.

    Args:
        during: Called when everything runs, before the first row; tests disturb the processes.
    """
    folder = folder.resolve()  # other processes get the project's path
    with terminal.err.status("Reading the table ..."):
        setup = prepare_replay(
            options.file,
            folder,
            project=options.project,
            target=options.target,
            time=options.time,
            warmup=options.warmup,
        )
    home = folder / "home"
    at = ServerAddresses(port=free_port(), mlflow_port=free_port())
    with _isolated(home, options.database), lock_home(home, at):
        settings = open_settings(home, project=str(setup.reference), api_rate_limit="off")
        start_logs(settings, "replay")
        first = _promote_first_champion(setup, settings)
        with supervising() as supervisor:
            return _ReplayRun(options, setup, settings, first, supervisor).run(at, during)
    raise TidemillError("The replay was stopped before its first row.")


@contextlib.contextmanager
def _isolated(home: Path, database: str | None) -> Iterator[None]:
    """Use only the replay's home, whatever the environment and tidemill.toml configure."""
    home.mkdir(0o700, parents=True, exist_ok=True)
    urls = {
        "TIDEMILL_DATABASE_URL": database or sqlite_url(home / "tidemill.db"),
        "TIDEMILL_BROKER_URL": folder_url(home / "broker"),
        "MLFLOW_TRACKING_URI": sqlite_url(home / "mlflow.db"),
        "MLFLOW_REGISTRY_URI": sqlite_url(home / "mlflow.db"),
    }
    before = {name: os.environ.get(name) for name in urls}
    os.environ.update(urls)
    try:
        with contextlib.closing(Database(urls["TIDEMILL_DATABASE_URL"])) as opened:
            migrate(opened)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _promote_first_champion(setup: ReplaySetup, settings: Settings) -> TrainResult:
    """Train on the warm-up and promote the best, even if it misses the gate's minimum."""
    result = train_project(setup.project, settings)
    verdict = gate_version(
        settings, setup.project.name, setup.project, version=result.version, force=True,
        reason="the first champion of a replay",
    )  # fmt: skip
    if not verdict.promoted:
        raise GateError(" ".join(verdict.reasons))
    return result


@dataclass(frozen=True)
class _ReplayRun:
    """One replay whose first champion is promoted."""

    options: ReplayOptions
    setup: ReplaySetup
    settings: Settings
    first: TrainResult
    supervisor: Supervisor

    def run(
        self, at: ServerAddresses, during: Callable[[ReplayProcesses], None] | None
    ) -> ReplayReport:
        key = ensure_key(self.settings)[0].read_text()
        separate = self.options.separate_ingest
        children = start_processes(self.supervisor, self.settings, at, separate_ingest=separate)
        with contextlib.closing(Platform.open(self.settings)) as platform:
            contests = platform.retraining.contests
            original = contests.bundle(self.setup.project.name, self.first.version)
            with (
                open_client(at, key) as client,
                _progress_bar("playing") as bar,
                ingesting(self.settings, separate_ingest=separate) as ingest,
            ):
                player = self._player(platform, client, original, ingest, bar)
                bar.set_total(player.total)
                if during is not None:
                    during(ReplayProcesses(platform, player, self.supervisor, children))
                record, trouble = _play(player)
            self.supervisor.stop()  # the server is done, and the baselines need the processors
            baselines = self._baselines(original, record)
        return make_report(
            record,
            self.setup,
            self.options.pace,
            baselines,
            source=self.options.file.name,
            trouble=trouble,
        )

    def _player(
        self,
        platform: Platform,
        client: Any,
        original: Bundle,
        ingest: Callable[[], None],
        bar: _RowBar,
    ) -> ReplayPlayer:
        model = self.setup.project.name

        def champion() -> str:
            found = platform.registry.by_alias(model, CHAMPION)
            assert found is not None, "the first champion was promoted"
            return found.number

        return ReplayPlayer(
            setup=self.setup,
            pace=self.options.pace,
            client=client,
            stores=ReplayStores(
                platform.predictions, platform.feedback, platform.jobs, platform.triggers,
                platform.contests,
            ),
            signature=original.signature,
            ingest=ingest,
            check=lambda: platform.watcher.check(model),
            champion=champion,
            while_waiting=self.supervisor.check,
            on_progress=bar.set_done,
        )  # fmt: skip

    def _baselines(self, original: Bundle, record: ReplayRecord) -> list[Baseline]:
        """The first champion left alone, and two schedules; Ctrl-C skips what is not finished."""
        setup, pace = self.setup, self.options.pace
        _, answered = answers_of(record, setup)
        found = [without_retraining(setup, original, answered)]
        if record.interrupted or not answered.any():
            return found
        live = len(setup.frame) - setup.warmup
        every = self.options.every or max(MIN_ROWS_BETWEEN, live // SCHEDULED_RETRAININGS)
        windows = (None, max(setup.warmup, 2000))
        with _progress_bar("schedule") as bar, contextlib.suppress(StopRequestedError):
            bar.set_total(len(windows) * len(answered))
            for number, window in enumerate(windows):
                done = number * len(answered)
                found.append(
                    on_schedule(
                        setup, answered, _best_params(self.first), every=every, delay=pace.delay,
                        batch=pace.batch, last=window,
                        on_progress=lambda rows, done=done: bar.set_done(done + rows),  # type: ignore[misc]
                    )
                )  # fmt: skip
        return found


def _play(player: ReplayPlayer) -> tuple[ReplayRecord, Exception | None]:
    """Play to the end, or until a signal or an error stops the replay.

    Raises:
        Exception: The error, if there was no prediction before it.
    """
    try:
        return player.play(), None
    except StopRequestedError:
        terminal.err.print("Stopped; the report covers the rows replayed so far.")
        why, trouble = "It was interrupted.", None
    except Exception as error:
        if not player.record.sent:
            raise
        terminal.err.print("The replay failed; the report covers the rows replayed so far.")
        why, trouble = str(error), error
    with contextlib.suppress(TidemillError):  # write the report even without the final counts
        player.count()
    return replace(player.record, interrupted=True, stopped=why), trouble


def _best_params(first: TrainResult) -> dict[str, dict[str, Any]]:
    """The parameters of each candidate's best trial."""
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for trial in first.trials:
        value = trial.metrics.get(first.metric)
        leader = best.get(trial.candidate)
        if value is not None and (leader is None or is_better(first.metric, value, leader[0])):
            best[trial.candidate] = (value, dict(trial.params))
    return {name: params for name, (_, params) in best.items()}


@dataclass(frozen=True)
class _RowBar:
    """A progress bar that counts rows."""

    set_done: Callable[[int], None]
    set_total: Callable[[int], None]


@contextlib.contextmanager
def _progress_bar(what: str) -> Iterator[_RowBar]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=terminal.err) as bar:
        task = bar.add_task(what, total=None)
        yield _RowBar(
            lambda rows: bar.update(task, completed=rows),
            lambda rows: bar.update(task, total=rows),
        )
