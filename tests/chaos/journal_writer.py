"""A process that writes to the journal until it is killed, for tests that kill it or its reader.

It records predictions in batches of random size, and writes the ids of a batch to standard output
only after the commit, as a server sends its responses only then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

WRITER = """
import random, sys, time
from pathlib import Path
from tidemill.serving.journal.journal import Journal
from tidemill.serving.journal.policy import JournalOptions

folder, name, segment_bytes, pause = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])
journal = Journal(folder, JournalOptions(segment_bytes=int(segment_bytes)), writer=name)
number = 0
while True:
    batch = []
    for _ in range(random.randint(1, 30)):
        batch.append(f"{name}.{number}")
        number += 1
        journal.append(
            id=batch[-1], time=time.time(), model="m", version="1", features=b"\\0" * 120,
            encoding="f4", predictions=["yes"], probabilities=b"\\0" * 8, latency=0.0,
        )
    assert journal.commit()
    sys.stdout.write("\\n".join(batch) + "\\n")
    sys.stdout.flush()
    time.sleep(pause)
"""


def start_writer(
    folder: Path, name: str, *, segment_bytes: int, pause: float = 0.0, **options: Any
) -> subprocess.Popen[Any]:
    """Start a writer.

    Args:
        name: The prefix of its prediction ids, `NAME.0`, `NAME.1` ...
        pause: Seconds between two batches.
        options: Options of `Popen`; the writer prints the ids, one per line.
    """
    sizes = (str(segment_bytes), str(pause))
    command = [sys.executable, "-c", WRITER, str(folder), name, *sizes]
    return subprocess.Popen(command, **options)
