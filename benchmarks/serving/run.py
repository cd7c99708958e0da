"""The run: start every server cold, check its answers, then measure in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.serving import load, server
from benchmarks.serving.cores import layout
from benchmarks.serving.payloads import Payload, make_payloads
from benchmarks.serving.peer import Endpoint, Installation, Peer
from benchmarks.serving.results import Results, Sample, Workload
from benchmarks.serving.server import Server

Payloads = dict[int, list[Payload]]
RunningEndpoint = tuple[Server, Endpoint]
ANY_FAILURE = (RuntimeError, OSError, LookupError, ValueError, TypeError)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    `cold` is the number of cold starts per server. All servers are restarted after
    `restart_every` rounds, because processes of the same program differ in speed by some percent
    for their whole lifetime.
    """

    models: tuple[str, ...]
    rows: tuple[int, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: int
    cold: int
    restart_every: int


@dataclass
class Bench:
    """A run of the benchmark. Measurements that `results` already holds are skipped."""

    plan: Plan
    peers: list[Peer]
    installations: dict[str, Installation]
    wrk: str
    cache: Path
    results: Results
    save: Callable[[], None]
    log: Callable[[str], None]

    def run(self) -> None:
        for model in self.plan.models:
            payloads = make_payloads(model)
            self._write_bodies(model, payloads)
            if model == self.plan.models[0]:
                for peer in list(self.peers):
                    self._try(peer, partial(self._start_cold, peer, model, payloads[1][0]))
            for rounds in self._round_groups(model):
                with self._start_all(model, payloads) as servers:
                    for number in rounds:
                        self._round(number, model, servers)

    def _round_groups(self, model: str) -> Iterator[range]:
        """Yield the rounds between two restarts, skipping groups that are already measured."""
        workloads = [(model, rows, c) for rows in self.plan.rows for c in self.plan.connections]
        for first in range(0, self.plan.rounds, self.plan.restart_every):
            rounds = range(first, min(first + self.plan.restart_every, self.plan.rounds))
            if not all(
                self.results.has(workload, number) for workload in workloads for number in rounds
            ):
                yield rounds

    def _start_cold(self, peer: Peer, model: str, payload: Payload) -> None:
        """Measure the time from process start to the first correct answer, then the memory.

        No other server runs meanwhile. The first start warms the file cache and is not counted.
        """
        if peer.name in self.results.memory:
            return
        times = []
        for _ in range(self.plan.cold + 1):
            started = time.monotonic()
            with self._running(peer, model) as running:
                check(running, peer.endpoints[0], [payload])
                times.append(time.monotonic() - started)
        with self._running(peer, model) as running:
            check(running, peer.endpoints[0], [payload])
            self._drive(running, peer.endpoints[0], (model, 1, 16), 2)
            self.results.memory[peer.name] = memory = running.memory()
        self.results.cold[peer.name] = times[1:]
        first = min(times[1:], default=times[0])
        self.log(f"{peer.title}: first answer after {first:.2f} s, {memory['pss'] / 2**20:.0f} MB")

    @contextmanager
    def _running(self, peer: Peer, model: str) -> Iterator[Server]:
        running = server.start(peer, self.installations[peer.name], model, cores=layout()[0])
        try:
            yield running
        finally:
            running.stop()

    @contextmanager
    def _start_all(self, model: str, payloads: Payloads) -> Iterator[list[RunningEndpoint]]:
        """Start all servers and yield the endpoints that answer correctly."""
        with ExitStack() as stack:
            servers: list[RunningEndpoint] = []
            for peer in list(self.peers):
                self._try(peer, partial(self._start_one, stack, servers, peer, model, payloads))
            yield servers

    def _start_one(
        self,
        stack: ExitStack,
        servers: list[RunningEndpoint],
        peer: Peer,
        model: str,
        payloads: Payloads,
    ) -> None:
        running = stack.enter_context(self._running(peer, model))
        every_payload = [payload for size in self.plan.rows for payload in payloads[size]]
        check(running, peer.endpoints[0], every_payload)
        peer.verify(running.installation, running.port)
        servers.append((running, peer.endpoints[0]))
        for endpoint in peer.endpoints[1:]:
            try:
                check(running, endpoint, every_payload, server.ANSWER_LIMIT)
                servers.append((running, endpoint))
            except ANY_FAILURE as error:
                self._leave_out(peer.case(endpoint), error)

    def _round(self, number: int, model: str, servers: list[RunningEndpoint]) -> None:
        """Measure each workload; within a workload, one server after the other."""
        for rows in self.plan.rows:
            for connections in self.plan.connections:
                workload = (model, rows, connections)
                if not self.results.has(workload, number):
                    samples = [self._sample(*each, workload, number) for each in servers]
                    self.results.samples += samples
                    self.save()

    def _sample(
        self, running: Server, endpoint: Endpoint, workload: Workload, number: int
    ) -> Sample:
        before = running.cpu_seconds()
        measured = self._drive(running, endpoint, workload, self.plan.seconds)
        used = running.cpu_seconds() - before
        running.peer.clean_up(running.installation)
        model, rows, connections = workload
        sample = Sample(
            case=running.peer.case(endpoint),
            model=model,
            rows=rows,
            connections=connections,
            round=number,
            requests=measured.requests,
            seconds=measured.seconds,
            cpu_seconds=used,
            p50=measured.p50,
            p99=measured.p99,
            errors=measured.bad_status + measured.broken,
        )
        self.log(sample.line())
        return sample

    def _drive(
        self, running: Server, endpoint: Endpoint, workload: Workload, seconds: int
    ) -> load.Load:
        model, rows, connections = workload
        return load.drive(
            self.wrk,
            f"http://127.0.0.1:{running.port}{endpoint.path(model)}",
            self._bodies(running.peer.case(endpoint), model, rows),
            connections=connections,
            seconds=seconds,
            headers=endpoint.headers(running.installation),
            cores=layout()[1],
        )

    def _write_bodies(self, model: str, payloads: Payloads) -> None:
        for peer in self.peers:
            for endpoint in peer.endpoints:
                for size, same_size in payloads.items():
                    path = self._bodies(peer.case(endpoint), model, size)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(
                        b"\n".join(endpoint.body(p.rows, model) for p in same_size) + b"\n"
                    )

    def _bodies(self, case: str, model: str, rows: int) -> Path:
        return self.cache / "bodies" / f"{case.replace(':', '-')}-{model}-{rows}.txt"

    def _try(self, peer: Peer, step: Callable[[], None]) -> None:
        """Run the step; on failure exclude the peer from the rest of the run and log the reason."""
        try:
            step()
        except ANY_FAILURE as error:
            self.peers.remove(peer)
            self._leave_out(peer.name, error)

    def _leave_out(self, case: str, error: Exception) -> None:
        self.results.failures[case] = f"{type(error).__name__}: {error}"
        self.log(f"{case}: left out. {error}")


def check(
    running: Server,
    endpoint: Endpoint,
    payloads: list[Payload],
    patience: float = server.START_LIMIT,
) -> None:
    """Send each payload once and compare the labels.

    Args:
        patience: Seconds until the first payload must be answered.

    Raises:
        RuntimeError: An answer is wrong, so its speed would be meaningless, or missing.
    """
    path, headers = endpoint.path(running.model), endpoint.headers(running.installation)
    for payload in payloads:
        body = endpoint.body(payload.rows, running.model)
        answer = server.wait_answer(running, path, body, headers, patience)
        got = [int(label) for label in endpoint.decode(answer)]
        if got != payload.labels:
            raise RuntimeError(f"wrong answer: {got[:5]}; scikit-learn has {payload.labels[:5]}")
        patience = server.ANSWER_LIMIT
