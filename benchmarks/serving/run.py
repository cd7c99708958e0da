"""The run: every server started cold, checked, and then asked in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.serving import load, server
from benchmarks.serving.cores import layout
from benchmarks.serving.peer import Form, Peer, Place
from benchmarks.serving.questions import Question, ask
from benchmarks.serving.results import Cell, Results, Sample
from benchmarks.serving.server import Server

Questions = dict[int, list[Question]]
Asked = tuple[Server, Form]
ANY_FAILURE = (RuntimeError, OSError, LookupError, ValueError, TypeError)


@dataclass(frozen=True)
class Plan:
    """How much to measure. `cold` is how often each server is started from nothing; after `reign`
    rounds all are started anew: one process is quicker than another of the same program by some
    percent, for as long as it lives."""

    models: tuple[str, ...]
    rows: tuple[int, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: int
    cold: int
    reign: int


@dataclass
class Bench:
    """What a run needs at hand. What `results` already hold is not measured again."""

    plan: Plan
    peers: list[Peer]
    places: dict[str, Place]
    wrk: str
    cache: Path
    results: Results
    keep: Callable[[], None]
    say: Callable[[str], None]

    def run(self) -> None:
        for model in self.plan.models:
            questions = ask(model)
            self._write_bodies(model, questions)
            if model == self.plan.models[0]:
                for peer in list(self.peers):
                    self._try(peer, partial(self._start_cold, peer, model, questions[1][0]))
            for rounds in self._reigns(model):
                with self._all_up(model, questions) as servers:
                    for number in rounds:
                        self._round(number, model, servers)

    def _reigns(self, model: str) -> Iterator[range]:
        """The rounds that each set of servers has, but for those that are all there already."""
        cells = [(model, rows, c) for rows in self.plan.rows for c in self.plan.connections]
        for first in range(0, self.plan.rounds, self.plan.reign):
            rounds = range(first, min(first + self.plan.reign, self.plan.rounds))
            if not all(self.results.has(cell, number) for cell in cells for number in rounds):
                yield rounds

    def _start_cold(self, peer: Peer, model: str, question: Question) -> None:
        """Process start to first right answer, over and over; then memory, with nothing else up.

        The first start warms the file cache and does not count.
        """
        if peer.name in self.results.memory:
            return
        times = []
        for _ in range(self.plan.cold + 1):
            begun = time.monotonic()
            with self._up(peer, model) as running:
                check(running, peer.forms[0], [question])
                times.append(time.monotonic() - begun)
        with self._up(peer, model) as running:
            check(running, peer.forms[0], [question])
            self._drive(running, peer.forms[0], (model, 1, 16), 2)
            self.results.memory[peer.name] = held = running.memory()
        self.results.cold[peer.name] = times[1:]
        first = min(times[1:], default=times[0])
        self.say(f"{peer.title}: first answer after {first:.2f} s, {held['pss'] / 2**20:.0f} MB")

    @contextmanager
    def _up(self, peer: Peer, model: str) -> Iterator[Server]:
        running = server.start(peer, self.places[peer.name], model, cores=layout()[0])
        try:
            yield running
        finally:
            running.stop()

    @contextmanager
    def _all_up(self, model: str, questions: Questions) -> Iterator[list[Asked]]:
        """All servers at once, each with the forms in which it gives the right answers."""
        with ExitStack() as stack:
            servers: list[Asked] = []
            for peer in list(self.peers):
                self._try(peer, partial(self._bring_up, stack, servers, peer, model, questions))
            yield servers

    def _bring_up(
        self, stack: ExitStack, servers: list[Asked], peer: Peer, model: str, questions: Questions
    ) -> None:
        running = stack.enter_context(self._up(peer, model))
        asked = [question for size in self.plan.rows for question in questions[size]]
        check(running, peer.forms[0], asked)
        peer.prove(running.place, running.port)
        servers.append((running, peer.forms[0]))
        for form in peer.forms[1:]:
            try:
                check(running, form, asked, server.ANSWER_LIMIT)
                servers.append((running, form))
            except ANY_FAILURE as error:
                self._leave_out(peer.case(form), error)

    def _round(self, number: int, model: str, servers: list[Asked]) -> None:
        """Each cell in turn; in each cell one server after the other."""
        for rows in self.plan.rows:
            for connections in self.plan.connections:
                cell = (model, rows, connections)
                if not self.results.has(cell, number):
                    taken = [self._sample(*asked, cell, number) for asked in servers]
                    self.results.samples += taken
                    self.keep()

    def _sample(self, running: Server, form: Form, cell: Cell, number: int) -> Sample:
        before = running.cpu_seconds()
        seen = self._drive(running, form, cell, self.plan.seconds)
        used = running.cpu_seconds() - before
        running.peer.tidy(running.place)
        model, rows, connections = cell
        sample = Sample(
            case=running.peer.case(form),
            model=model,
            rows=rows,
            connections=connections,
            round=number,
            requests=seen.requests,
            seconds=seen.seconds,
            cpu_seconds=used,
            p50=seen.p50,
            p99=seen.p99,
            errors=seen.bad_status + seen.broken,
        )
        self.say(sample.line())
        return sample

    def _drive(self, running: Server, form: Form, cell: Cell, seconds: int) -> load.Load:
        model, rows, connections = cell
        return load.drive(
            self.wrk,
            f"http://127.0.0.1:{running.port}{form.path(model)}",
            self._bodies(running.peer.case(form), model, rows),
            connections=connections,
            seconds=seconds,
            headers=form.headers(running.place),
            cores=layout()[1],
        )

    def _write_bodies(self, model: str, questions: Questions) -> None:
        for peer in self.peers:
            for form in peer.forms:
                for size, asked in questions.items():
                    path = self._bodies(peer.case(form), model, size)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"\n".join(form.body(q.rows, model) for q in asked) + b"\n")

    def _bodies(self, case: str, model: str, rows: int) -> Path:
        return self.cache / "bodies" / f"{case.replace(':', '-')}-{model}-{rows}.txt"

    def _try(self, peer: Peer, step: Callable[[], None]) -> None:
        """Do it, or leave the peer out of the rest of the run and say why."""
        try:
            step()
        except ANY_FAILURE as error:
            self.peers.remove(peer)
            self._leave_out(peer.name, error)

    def _leave_out(self, case: str, error: Exception) -> None:
        self.results.failures[case] = f"{type(error).__name__}: {error}"
        self.say(f"{case}: left out. {error}")


def check(
    running: Server, form: Form, questions: list[Question], patience: float = server.START_LIMIT
) -> None:
    """Ask each once; a wrong answer is a RuntimeError, because its speed would say nothing.

    The first question gets so many seconds to be answered.
    """
    path, headers = form.path(running.model), form.headers(running.place)
    for question in questions:
        body = form.body(question.rows, running.model)
        answer = server.wait_answer(running, path, body, headers, patience)
        got = [int(label) for label in form.decode(answer)]
        if got != question.labels:
            raise RuntimeError(f"wrong answer: {got[:5]}; scikit-learn has {question.labels[:5]}")
        patience = server.ANSWER_LIMIT
