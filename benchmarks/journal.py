"""What the journal costs per event-loop tick, part by part: `python -m benchmarks.journal`.

The parts are those of `tidemill.serving.model.prediction_recorder` and
`tidemill.serving.journal.journal`. They run in a tight loop with warm processor caches, so the
figures are lower bounds; `python -m benchmarks.serving` measures the cost inside a server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import timeit
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tidemill import bundle
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.http.routes import Admission, Request, Route
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions
from tidemill.serving.journal.prediction_ids import id_source
from tidemill.serving.model.batching import BatchItem
from tidemill.serving.model.prediction_recorder import PredictionRecorder

BUNDLE = Path(__file__).parent.parent / "tests" / "data" / "iris-bundle"
NUMBER, REPEAT = 1000, 60


class Tick:
    """The answered one-row requests of one event-loop tick, ready to be recorded."""

    def __init__(self, journal: Journal, requests: int) -> None:
        model = bundle.read(BUNDLE)
        encoder = TensorEncoder(model.signature, model.manifest.inputs)
        buffer = encoder.new_buffer(requests)
        buffer[:] = np.random.default_rng(0).normal(size=buffer.shape)
        self.journal = journal
        self.recorder = PredictionRecorder(journal, "iris", "1", encoder, buffer)
        next_id, route = id_source(), Route("POST", "/predict", lambda request: None)
        self.items = [
            BatchItem(
                Request(
                    Admission(route, None, key_id="k_1234567890"),
                    b"", next_id(), time.monotonic(), lambda response, block: None,
                ),
                None, 1, lambda request, outputs, start, stop: None, start=index,
            )
            for index in range(requests)
        ]  # fmt: skip
        probabilities = np.full((requests, len(model.signature.labels)), 0.5, np.float32)
        self.outputs = Outputs(np.zeros(requests, np.int64), probabilities, None)
        self.outputs.label_list  # noqa: B018  computed before recording, as for responses

    def record(self) -> None:
        self.outputs._floats = None
        self.recorder.write(self.items, self.outputs, "champion", (time.time(), time.monotonic()))

    def record_and_discard(self) -> None:
        self.record()
        self.journal._pending.clear()

    def record_and_commit(self) -> None:
        self.record()
        self.journal.commit()

    def parts(self) -> dict[str, float]:
        """Microseconds of each part of the tick."""
        journal = self.journal
        self.record()
        runs = list(journal._pending)
        payload, frame = journal._encode(runs), journal._frame(runs)
        journal.commit()
        segment = journal._segment
        assert segment is not None
        found = {
            "columns of the run": _microseconds(self.record_and_discard),
            "MessagePack": _microseconds(lambda: journal._encode(runs)),
            "checksum": _microseconds(lambda: zlib.adler32(payload, 1)),
            "write(2)": _microseconds(lambda: os.write(segment._descriptor, frame)),
        }
        whole = _microseconds(self.record_and_commit)
        return found | {"other": whole - sum(found.values()), "total": whole}


def _microseconds(part: Callable[[], Any]) -> float:
    """Return the median of many repetitions; the minimum is noise on a shared processor."""
    return statistics.median(timeit.repeat(part, number=NUMBER, repeat=REPEAT)) / NUMBER * 1e6


@contextmanager
def _journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on disk; /tmp may be in memory
        journal = Journal(Path(folder), JournalOptions(max_bytes=64 << 30))
        yield journal
        journal.close()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", default="1,4,16", help="requests per tick, comma-separated")
    sizes = [int(size) for size in parser.parse_args().requests.split(",")]
    with _journal() as journal:
        found = [Tick(journal, size).parts() for size in sizes]
    print(
        "| microseconds per tick | "
        + " | ".join(f"{size} request{'s' * (size > 1)}" for size in sizes)
        + " |"
    )
    print("| --- |" + " ---: |" * len(sizes))
    for part in found[0]:
        print(f"| {part} | " + " | ".join(f"{each[part]:.2f}" for each in found) + " |")


if __name__ == "__main__":
    main()
