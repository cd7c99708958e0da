"""Predictions at a fixed rate, a label for each second one, and now and then a training."""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

LABELS = ["Iris-setosa", "Iris-versicolor", "Iris-virginica"]
MODEL = "iris-classifier"
TIMEOUT = 10.0
SENDERS = 10


@dataclass
class Sent:
    """What was acknowledged.

    Attributes:
        answers: (time, prediction id) of each answered prediction; monotonic time.
        failures: (time, status or error) of each prediction that was not answered with 200.
        labels: Prediction ids whose label was acknowledged.
        jobs: Acknowledged trainings, by job id, with the time.
    """

    answers: list[tuple[float, str]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    jobs: dict[str, float] = field(default_factory=dict)

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time without an answer in an interval."""
        times = sorted(t for t, _ in self.answers if start <= t <= end)
        return max(b - a for a, b in zip([start, *times], [*times, end], strict=True))

    def failed(self, start: float, end: float) -> int:
        """How many predictions failed in an interval."""
        return sum(start <= t < end for t, _ in self.failures)

    def failure_counts(self) -> dict[str, int]:
        return dict(Counter(why for _, why in self.failures))


class Traffic:
    """Sends until it is stopped, to each address in turn.

    Args:
        rate: Predictions per second, of all senders together.
        job_seconds: Between two trainings; 0 for none.
    """

    def __init__(self, urls: list[str], key: str, *, rate: float, job_seconds: float) -> None:
        self.sent = Sent()
        self._ports = [int(url.rpartition(":")[2]) for url in urls]
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._unlabelled: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop, self._no_jobs = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._predict, args=(number, SENDERS / rate), daemon=True)
            for number in range(SENDERS)
        ]
        self._threads.append(threading.Thread(target=self._label, daemon=True))
        if job_seconds:
            self._threads.append(
                threading.Thread(target=self._train, args=(job_seconds,), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def stop_jobs(self) -> None:
        self._no_jobs.set()

    def stop(self) -> Sent:
        """Stop sending, wait until the last labels are acknowledged, and return what was sent."""
        self._stop.set()
        self._no_jobs.set()
        for thread in self._threads:
            thread.join(20 * TIMEOUT)
        return self.sent

    def _predict(self, number: int, pause: float) -> None:
        drawn = random.Random(number)
        port = self._ports[number % len(self._ports)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        due = time.monotonic() + drawn.uniform(0, pause)
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + pause, time.monotonic() - 1.0)  # what was late is not made up for
            status, answer = self._post(connection, "/predict", {"features": _row(drawn)})
            now = time.monotonic()
            if status != 200:
                self.sent.failures.append((now, str(answer if status == 0 else status)))
                continue
            self.sent.answers.append((now, answer["id"]))
            if drawn.random() < 0.5:
                self._unlabelled.put(answer["id"])
        connection.close()

    def _label(self) -> None:
        connection = self._connection()
        waiting: list[str] = []
        tries = 0
        while tries < 60:  # after the end
            stopping = self._stop.wait(0.5)
            while not self._unlabelled.empty():
                waiting.append(self._unlabelled.get())
            if stopping and not waiting and not any(t.is_alive() for t in self._threads[:SENDERS]):
                break
            tries += stopping
            batch = waiting[:500]
            body = [{"id": id, "actual": random.choice(LABELS)} for id in batch]
            if not batch or self._post(connection, "/feedback", body)[0] // 100 != 2:
                continue  # sent again: a label that was stored then counts as a duplicate
            self.sent.labels.update(batch)
            del waiting[: len(batch)]
        connection.close()

    def _train(self, pause: float) -> None:
        connection, number = self._connection(), 0
        while not self._no_jobs.wait(pause):
            number += 1
            self._headers_of_job = {**self._headers, "Idempotency-Key": f"chaos-{number}"}
            for _ in range(20):  # with the same key: the same job
                status, answer = self._post(
                    connection, f"/models/{MODEL}/train", {}, self._headers_of_job
                )
                if status == 202:
                    self.sent.jobs[answer["job_id"]] = time.monotonic()
                    break
                if self._no_jobs.wait(1.0):
                    break
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=TIMEOUT)

    def _post(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: Any,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """The status and the answer; 0 and the error's name if there is none."""
        try:
            connection.request("POST", path, json.dumps(body), headers or self._headers)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if response.status < 300 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return 0, type(error).__name__


def _row(drawn: random.Random) -> dict[str, float]:
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    return {name: round(drawn.uniform(0.2, 7.0), 2) for name in names}
