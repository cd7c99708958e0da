"""Versions change while requests are answered, without an error."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tidemill.bundle import Example
from tidemill.bundle import RowPrediction as Given
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState, read_state, write_state

from .conftest import FLOATS, Start, Tidemill, classifier, make_shelf, put, wait_until

BODY = {"features": [1.0] * len(FLOATS)}


@pytest.fixture
def version(home: Path, tmp_path: Path) -> Callable[[int], ShelfEntry]:
    """Installs version N of the classifier, a different model each time."""

    def place(number: int) -> ShelfEntry:
        made = classifier(tmp_path / f"made-{number}", seed=number)
        return put(home / "shelf", "classifier", str(number), made)

    return place


def promote(home: Path, placed: ShelfEntry | None, name: str = "classifier") -> None:
    """Make a version the one in service."""
    shelf = home / "shelf"
    models = {k: v for k, v in read_state(shelf).models.items() if k != name}
    if placed is not None:
        models[name] = placed
    write_state(shelf, ShelfState(default=name, models=models, synced_at=time.time()))


def serving(running: Tidemill) -> str:
    got = running.ask("/predict", BODY)
    return str(got.json()["version"]) if got.status == 200 else f"status {got.status}"


def test_twenty_swaps_fail_no_request_and_serve_no_old_version(
    home: Path, start: Start, version: Callable[[int], ShelfEntry]
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    placed = {number: version(number) for number in range(2, 22)}
    running = start(poll=0.25)
    answers: list[tuple[int, int, float]] = []
    archived: dict[int, float] = {}  # when each version was no longer the one to serve

    async def all_of_it() -> None:
        done = asyncio.Event()
        clients = [asyncio.create_task(ask(running.port, answers, done)) for _ in range(16)]
        for number in range(1, 22):
            if number > 1:
                await asyncio.to_thread(promote, home, placed[number])
                archived[number - 1] = time.monotonic()
            await asyncio.to_thread(
                wait_until, lambda n=number: answers and answers[-1][1] == n, f"version {number}"
            )
        while len(answers) < 10_000:
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*clients)

    asyncio.run(all_of_it())
    assert len(answers) >= 10_000
    assert {number for _, number, _ in answers} == set(range(1, 22))
    assert all(number >= newest for newest, number, _ in answers)
    late = [
        (n, asked - archived[n]) for _, n, asked in answers if asked > archived.get(n, asked) + 2
    ]
    assert not late, f"{len(late)} answers of versions archived more than 2 s before: {late[:5]}"


async def ask(port: int, answers: list[tuple[int, int, float]], done: asyncio.Event) -> None:
    """Send requests over one connection until stopped; any status but 200 is an error.

    An answer is the newest version that had answered anyone when the question went out, the version
    that answers it, and when it went out.
    """
    body = msgspec.json.encode(BODY)
    request = b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not done.is_set():
            newest, asked = answers[-1][1] if answers else 1, time.monotonic()
            writer.write(request % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            found = msgspec.json.decode(await reader.readexactly(length))
            answers.append((newest, int(found["version"]), asked))
    finally:
        writer.close()


def test_a_new_version_never_returns_the_old_ones_cached_answers(
    home: Path, start: Start, version: Callable[[int], ShelfEntry]
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start(cache="on")
    old = [running.ask("/predict", BODY) for _ in range(2)][1]
    assert old.headers["x-cache"] == "HIT"
    promote(home, version(2))
    wait_until(lambda: serving(running) == "2", "version 2")
    new = running.ask("/predict", BODY).json()
    assert new["probabilities"] != old.json()["probabilities"]
    text = running.ask("/metrics").body.decode()
    assert 'tidemill_model_loaded{model="classifier",version="1"} 0.0' in text
    assert 'tidemill_model_loaded{model="classifier",version="2"} 1.0' in text


def damage(folder: Path, how: str) -> None:
    model = folder / "model.onnx"
    content = model.read_bytes()
    if how == "truncated":
        model.write_bytes(content[:-10])
    elif how == "changed":
        model.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "half copied":
        (folder / "signature.json").unlink()
    elif how == "absent":
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    elif how == "with another profile":  # which nothing but its hash tells
        (folder / "profile.json").write_bytes(b"{ }")
    elif how == "with a file too many":
        (folder / "model.pkl").write_bytes(b"x")


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "changed",
        "half copied",
        "absent",
        "with a file too many",
        "with another profile",
    ],
)
def test_a_damaged_bundle_is_refused_and_the_old_version_stays(
    home: Path, start: Start, version: Callable[[int], ShelfEntry], how: str
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    placed = version(2)
    damage(home / "shelf" / placed.folder, how)
    promote(home, placed)
    models = running.service.models
    wait_until(lambda: "classifier" in models.problems, "the refusal")
    assert serving(running) == "1"
    ready = running.ask("/ready")
    assert (ready.status, ready.json()["status"]) == (200, "degraded")
    assert "classifier" in ready.json()["shelf"]["problems"]
    text = running.ask("/metrics").body.decode()
    assert "tidemill_shelf_problems 1.0" in text
    assert 'tidemill_model_refusals_total{model="classifier"} 1.0' in text
    promote(home, version(3))
    wait_until(lambda: serving(running) == "3", "version 3")
    wait_until(lambda: not models.problems, "no problem any more")
    assert running.ask("/ready").json()["status"] == "ready"


def test_a_version_that_does_not_answer_its_example_is_refused(
    home: Path, start: Start, tmp_path: Path
) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    other = classifier(tmp_path / "other", seed=5)
    lying = classifier(tmp_path / "lying", seed=6)
    rows = lying.example().rows
    answers = tuple(Given(a.prediction, a.probabilities) for a in other.example().answers)
    reseal(lying.path, Example(rows, answers))
    from tidemill import bundle

    promote(home, put(home / "shelf", "classifier", "2", bundle.read(lying.path)))
    why = wait_until(lambda: running.service.models.problems.get("classifier"), "the refusal")
    assert "of its own example differently than in training" in why
    assert serving(running) == "1"


def reseal(folder: Path, example: Example) -> None:
    from tidemill import bundle

    manifest = bundle.read(folder).manifest
    (folder / "example.json").write_bytes(msgspec.json.encode(example))
    (folder / "manifest.json").unlink()
    bundle.seal(folder, manifest)


def test_loading_a_refused_version_is_retried(
    home: Path, start: Start, version: Callable[[int], ShelfEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tidemill.serving.model import pool

    monkeypatch.setattr(pool, "RETRY_SECONDS", 0.1)
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    placed = version(2)
    model = home / "shelf" / placed.folder / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    promote(home, placed)
    wait_until(lambda: "classifier" in running.service.models.problems, "the refusal")
    model.write_bytes(content)
    wait_until(lambda: serving(running) == "2", "version 2")


def test_models_are_added_and_removed_with_the_state(home: Path, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier", "regressor"))
    running = start()
    house = {"area": 1, "side": "north", "rooms": 2, "garden": True}
    assert running.ask("/models/regressor/predict", house).status == 200
    promote(home, None, "regressor")
    wait_until(lambda: running.ask("/models/regressor/predict", house).status == 404, "removal")
    make_shelf(home / "shelf")
    wait_until(lambda: running.ask("/models/pictures/schema").status == 200, "the new model")


def test_only_the_configured_models_are_served(home: Path, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start(models="regressor, absent")
    assert list(running.service.models.predictors) == ["regressor"]
    assert running.ask("/models/classifier/predict", BODY).status == 404
    absent = running.ask("/models/absent/predict", BODY)
    assert absent.status == 503
    assert "not on the shelf" in absent.json()["detail"]


def test_an_unreadable_state_changes_nothing(home: Path, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    state = home / "shelf" / "state.json"
    content = state.read_bytes()
    for text in (b"{", b"{}", b"[]", b'{"models": {}}', b"", b'"\xff"'):
        state.write_bytes(text)
        wait_until(lambda: running.service.models.problems, "the problem")
        assert serving(running) == "1"
        state.write_bytes(content)
        wait_until(lambda: not running.service.models.problems, "recovery")


def test_the_shelf_may_be_created_later(home: Path, start: Start) -> None:
    running = start()
    assert serving(running) == "status 503"
    assert running.ask("/ready").status == 503
    make_shelf(home / "shelf", ("classifier",))
    wait_until(lambda: serving(running) == "1", "the model")
    assert running.ask("/ready").status == 200


def test_a_lost_shelf_takes_nothing_out_of_service(
    home: Path, start: Start, version: Callable[[int], ShelfEntry], tmp_path: Path
) -> None:
    """Bundles, state and the whole folder disappear; then a new state is followed again."""
    make_shelf(home / "shelf", ("classifier",))
    running = start()
    shelf, state = home / "shelf", home / "shelf" / "state.json"

    def problem() -> str:
        ready = running.ask("/ready")
        assert ready.status == 200
        return str(ready.json()["shelf"]["problems"].get("", ""))

    assert problem() == ""
    saved = state.read_bytes()
    state.write_text("{")
    wait_until(lambda: "cannot be read" in problem(), "the torn state to be reported")
    state.unlink()
    wait_until(lambda: "missing" in problem(), "the missing state to be reported")
    assert serving(running) == "1"
    shutil.rmtree(shelf)
    assert "missing" in problem()
    assert serving(running) == "1"
    shelf.mkdir()
    state.write_bytes(saved)
    wait_until(lambda: problem() == "", "the state to be read")
    assert serving(running) == "1"
    promote(home, version(2))
    wait_until(lambda: serving(running) == "2", "the swap")
