"""Slow models: they run in a thread, in batches, and no request waits longer than the timeout."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.serving.model.runtime import load_runtime

from .conftest import FLOATS, Answer, Start, Tidemill, make_shelf, wait_until

ROW = [1.0] * len(FLOATS)
BAD = [-99.0, *ROW[1:]]


class Slow:
    """The real model, which a test can block, or one that fails on a certain row."""

    slowness = 0.002

    def __init__(self, bundle: Any) -> None:
        self.real = load_runtime(bundle)
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.measured = False

    def run(self, inputs: list[Any]) -> Any:
        if not self.measured:
            time.sleep(self.slowness)  # so that warm-up finds it too slow for the event loop
        else:
            self.batches.append(len(inputs[0]))
            assert self.open.wait(300)
        if (np.asarray(inputs[0]) == -99.0).any():
            raise ValueError("this row breaks the model")
        return self.real.run(inputs)


Begin = Callable[..., tuple[Tidemill, Slow]]


@pytest.fixture
def begin(home: Path, start: Start) -> Iterator[Begin]:
    """Serves the slowed-down classifier; returns the server and the model."""
    made: list[Slow] = []

    def load(bundle: Any) -> Slow:
        made.append(Slow(bundle))
        return made[-1]

    def start_slow(**settings: Any) -> tuple[Tidemill, Slow]:
        make_shelf(home / "shelf", ("classifier",))
        running = start(load_runtime=load, **settings)
        made[-1].measured = True
        return running, made[-1]

    yield start_slow
    for model in made:
        model.open.set()


def ask_many(running: Tidemill, rows: list[Any]) -> list[Answer]:
    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(lambda row: running.ask("/predict", {"features": row}), rows))


def test_requests_that_arrive_during_a_run_are_run_together(begin: Begin) -> None:
    running, model = begin()
    model.open.clear()
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(running.ask, "/predict", {"features": ROW})
        wait_until(lambda: model.batches == [1], "the first run")
        rest = [
            pool.submit(running.ask, "/predict", {"features": [float(i), *ROW[1:]]})
            for i in range(20)
        ]
        queue = running.service.models.find(None)._queue
        wait_until(lambda: queue.rows == 20, "the others to wait")
        assert running.ask("/health").status == 200
        model.open.set()
        answers = [f.result() for f in (first, *rest)]
    assert model.batches == [1, 20]
    assert all(a.status == 200 for a in answers)
    alone = running.ask("/predict", {"features": [7.0, *ROW[1:]]}).json()
    assert answers[8].json()["probabilities"] == alone["probabilities"]


def test_a_row_that_breaks_the_model_affects_no_other(begin: Begin) -> None:
    running, model = begin()
    model.open.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(running.ask, "/predict", {"features": ROW})
        wait_until(lambda: model.batches == [1], "the first run")
        rows = [ROW, ROW, BAD, ROW, ROW]
        rest = [pool.submit(running.ask, "/predict", {"features": row}) for row in rows]
        wait_until(lambda: running.service.models.find(None)._queue.rows == 5, "the others")
        model.open.set()
        statuses = sorted(f.result().status for f in (first, *rest))
    assert statuses == [200] * 5 + [500]
    assert b"breaks" not in running.ask("/predict", {"features": BAD}).body


def test_a_full_queue_answers_503(begin: Begin) -> None:
    running, model = begin(queue_rows=3)
    model.open.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(running.ask, "/predict", {"features": ROW})]
        wait_until(lambda: model.batches == [1], "the first run")
        queue = running.service.models.find(None)._queue
        asked += [pool.submit(running.ask, "/predict", {"features": ROW}) for _ in range(3)]
        wait_until(lambda: queue.rows == 3, "three more to wait")
        got = running.ask("/predict", {"features": ROW})
        assert (got.status, got.headers["retry-after"]) == (503, "1")
        model.open.set()
        assert [f.result().status for f in asked] == [200] * 4


def test_waiting_requests_of_a_hanging_model_get_504(begin: Begin) -> None:
    running, model = begin(timeout=0.3)
    model.open.clear()
    answers = ask_many(running, [ROW] * 4)
    assert [a.status for a in answers] == [504] * 4
    assert "0.3 s" in answers[0].json()["detail"]
    model.open.set()
    wait_until(lambda: running.ask("/predict", {"features": ROW}).status == 200, "recovery")


def test_many_rows_do_not_run_on_the_event_loop(begin: Begin) -> None:
    running, model = begin()
    model.open.clear()
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(running.ask, "/predict", {"instances": [ROW] * 500})
        wait_until(lambda: model.batches == [500], "the run")
        assert running.ask("/health").status == 200
        model.open.set()
        assert len(batch.result().json()["predictions"]) == 500


def test_repeated_inputs_are_answered_from_the_cache(begin: Begin) -> None:
    running, model = begin()
    first = running.ask("/predict", {"features": ROW})
    again = running.ask("/predict", dict(zip(FLOATS, ROW, strict=True)))
    other = running.ask("/predict", {"features": [2.0, *ROW[1:]]})
    assert [a.headers["x-cache"] for a in (first, again, other)] == ["MISS", "HIT", "MISS"]
    assert model.batches == [1, 1]
    assert first.json()["probabilities"] == again.json()["probabilities"]
    assert first.json()["id"] != again.json()["id"]
    text = running.ask("/metrics").body.decode()
    assert 'tidemill_cache_hits_total{tier="memory"} 1.0' in text
    assert "tidemill_cache_misses_total 2.0" in text


def test_the_cache_can_be_turned_off(begin: Begin) -> None:
    running, model = begin(cache="off")
    for _ in range(2):
        assert "x-cache" not in running.ask("/predict", {"features": ROW}).headers
    assert model.batches == [1, 1]


def test_a_fast_model_can_be_cached_too(home: Path, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start(cache="on")
    found = [running.ask("/predict", {"features": ROW}) for _ in range(3)]
    assert [a.headers["x-cache"] for a in found] == ["MISS", "HIT", "HIT"]
    assert len({a.json()["confidence"] for a in found}) == 1


def test_another_process_is_answered_from_redis(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, redis_server_url: str
) -> None:
    monkeypatch.setattr(Slow, "slowness", 0.5)  # longer than Redis takes on any machine
    chance = random.SystemRandom()  # not what another test has seeded: Redis remembers
    row = [chance.random() for _ in FLOATS]
    first, model = begin(cache_url=redis_server_url)
    wait_until(lambda: first.service.cache.state().remote_up, "redis to be measured")
    answers = [first.ask("/predict", {"features": row})]
    wait_until(lambda: not first.service.cache._remote._writes, "redis to be told")
    second, other = begin(cache_url=redis_server_url)
    wait_until(lambda: second.service.cache.state().remote_up, "redis to be measured")
    answers += [second.ask("/predict", {"features": row}) for _ in range(2)]
    assert [a.headers["x-cache"] for a in answers] == ["MISS", "HIT", "HIT"]
    assert (model.batches, other.batches) == ([1], [])
    assert len({str(a.json()["probabilities"]) for a in answers}) == 1
    text = second.ask("/metrics").body.decode()
    assert 'tidemill_cache_hits_total{tier="redis"} 1.0' in text
    assert 'tidemill_cache_hits_total{tier="memory"} 1.0' in text


def test_without_redis_everything_is_a_miss(begin: Begin) -> None:
    running, _ = begin(cache_url="redis://127.0.0.1:1/0")
    found = [running.ask("/predict", {"features": ROW}) for _ in range(2)]
    assert [a.headers["x-cache"] for a in found] == ["MISS", "HIT"]
    assert running.ask("/ready").status == 200
