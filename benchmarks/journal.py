"""What the journal costs per event-loop tick, part by part: `python -m benchmarks.journal`.

The parts are those of `tidemill.serving.model.prediction_recorder` and
`tidemill.serving.journal.journal`, in a tight loop, which finds all of
their code and tables in the processor's caches: the least that they cost. What they cost a server
beside everything else, `python -m benchmarks.serving` tells.
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
    """So many requests of one row each, answered, to be recorded."""

    def __init__(self, journal: Journal, requests: int) -> None:
        held = bundle.read(BUNDLE)
        encoder = TensorEncoder(held.signature, held.manifest.inputs)
        buffer = encoder.new_buffer(requests)
        buffer[:] = np.random.default_rng(0).normal(size=buffer.shape)
        self.journal = journal
        self.recorder = PredictionRecorder(journal, "iris", "1", encoder, buffer)
        next_id, route = id_source(), Route("POST", "/predict", lambda request: None)
        self.works = [
            BatchItem(
                Request(
                    Admission(route, None, key_id="k_1234567890"),
                    b"", next_id(), time.monotonic(), lambda response, block: None,
                ),
                None, 1, lambda request, outputs, start, stop: None, start=place,
            )
            for place in range(requests)
        ]  # fmt: skip
        likely = np.full((requests, len(held.signature.labels)), 0.5, np.float32)
        self.outputs = Outputs(np.zeros(requests, np.int64), likely, None)
        self.outputs.label_list  # noqa: B018  made for the answers already

    def record(self) -> None:
        self.outputs._floats = None
        self.recorder.write(self.works, self.outputs, "champion", (time.time(), time.monotonic()))

    def record_and_forget(self) -> None:
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
        payload, frame = journal._encode(runs), journal._framed(runs)
        journal.commit()
        segment = journal._segment
        assert segment is not None
        found = {
            "the columns of the run": _microseconds(self.record_and_forget),
            "MessagePack": _microseconds(lambda: journal._encode(runs)),
            "the checksum": _microseconds(lambda: zlib.adler32(payload, 1)),
            "write(2)": _microseconds(lambda: os.write(segment._descriptor, frame)),
        }
        whole = _microseconds(self.record_and_commit)
        return found | {"the rest": whole - sum(found.values()), "all of it": whole}


def _microseconds(part: Callable[[], Any]) -> float:
    """The median of many tries: the least is luck with a shared processor."""
    return statistics.median(timeit.repeat(part, number=NUMBER, repeat=REPEAT)) / NUMBER * 1e6


@contextmanager
def _journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # the disk, where /tmp is memory
        journal = Journal(Path(folder), JournalOptions(max_bytes=64 << 30))
        yield journal
        journal.close()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", default="1,4,16", help="per tick, with commas")
    sizes = [int(size) for size in parser.parse_args().requests.split(",")]
    with _journal() as journal:
        found = [Tick(journal, size).parts() for size in sizes]
    print("| microseconds a tick | " + " | ".join(f"{size} requests" for size in sizes) + " |")
    print("| --- |" + " ---: |" * len(sizes))
    for part in found[0]:
        print(f"| {part} | " + " | ".join(f"{each[part]:.2f}" for each in found) + " |")


if __name__ == "__main__":
    main()
