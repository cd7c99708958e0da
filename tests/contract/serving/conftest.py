"""Small real bundles on a shelf, and servers for them, for the data plane's tests."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import uvicorn

from tests.servers import PATIENCE
from tidemill import bundle as bundles
from tidemill import keyring
from tidemill.bundle import Bundle, Example, Manifest, ModelInput, ModelOutputs
from tidemill.bundle import RowPrediction as Given
from tidemill.serving.model.loading import LoadRuntime
from tidemill.serving.server.asgi import ServingApp
from tidemill.serving.server.server import ServingServer
from tidemill.serving.server.sockets import bind
from tidemill.serving.service import Service, runtime_loader
from tidemill.serving.settings import ServingSettings, load
from tidemill.serving.shelf import shelf as shelves
from tidemill.serving.shelf.shelf import ShelfEntry, ShelfState
from tidemill.signature import Column, Signature, Tensor

LABELS = ("low", "mid", 'h"igh %')
FLOATS = tuple(f"mean measure {i}" for i in range(6))


def write_bundle(
    folder: Path, signature: Signature, inputs: Sequence[ModelInput], outputs: ModelOutputs,
    model: bytes, example: Example,
) -> Bundle:  # fmt: skip
    """A sealed bundle around an ONNX model."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "signature.json").write_bytes(msgspec.json.encode(signature))
    (folder / "profile.json").write_bytes(b"{}")
    (folder / "example.json").write_bytes(msgspec.json.encode(example))
    manifest = Manifest(
        format=bundles.FORMAT,
        model="test",
        created="2025-01-01T00:00:00Z",
        runtime="onnx",
        files={},
        inputs=tuple(inputs),
        outputs=outputs,
    )
    return bundles.seal(folder, manifest)


def classifier(folder: Path, seed: int = 0) -> Bundle:
    """Three classes from six numbers: a softmax of a matrix product, in single precision."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = random.normal(0, 0.3, (len(FLOATS), 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["X", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "softmax",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(FLOATS)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3]),
        ],
        [numpy_helper.from_array(weights, "weights")],
    )
    rows = random.normal(3, 1, (4, len(FLOATS))).astype(np.float32)
    odds = np.exp(rows.astype(np.float64) @ weights)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    signature = Signature(
        "classification", "level", tuple(Column(n, "number") for n in FLOATS), labels=LABELS
    )
    answers = tuple(Given(LABELS[int(p.argmax())], tuple(map(float, p))) for p in probabilities)
    example = Example(tuple(tuple(map(float, r)) for r in rows), answers)
    inputs = [ModelInput("X", "float32", FLOATS)]
    outputs = ModelOutputs(label="label", probabilities="probabilities")
    return write_bundle(folder, signature, inputs, outputs, _model(graph), example)


def _model(graph: Any) -> bytes:
    from onnx import helper

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def regressor(folder: Path) -> Bundle:
    """A mixed table: a number, a nullable integer, a boolean and a text."""
    from onnx import TensorProto, helper

    def info(name: str, kind: int, width: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [None, width])

    nodes = [
        helper.make_node("IsNaN", ["n"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "n"], ["known"]),
        helper.make_node("ReduceSum", ["known", "axis"], ["sum"], keepdims=1),
        helper.make_node(
            "LabelEncoder", ["t"], ["code"], domain="ai.onnx.ml", keys_strings=["north", "south"],
            values_floats=[100.0, 200.0], default_float=-1.0,
        ),
        helper.make_node("Cast", ["code"], ["code64"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["sum", "code64"], ["value"]),
    ]  # fmt: skip
    constants = [
        helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes, "sum", [info("n", TensorProto.DOUBLE, 3), info("t", TensorProto.STRING, 1)],
        [info("value", TensorProto.DOUBLE, 1)], constants,
    )  # fmt: skip
    signature = Signature(
        "regression",
        "price",
        (
            Column("area", "number"),
            Column("side", "text", categories=("north", "south")),
            Column("rooms", "integer", nullable=True),
            Column("garden", "boolean"),
        ),
    )
    inputs = [
        ModelInput("n", "float64", ("area", "rooms", "garden")),
        ModelInput("t", "string", ("side",)),
    ]
    example = Example(
        ((10.5, "north", 3, True), (2.0, "south", None, False)), (Given(114.5), Given(202.0))
    )
    return write_bundle(
        folder, signature, inputs, ModelOutputs(value="value"), _model(graph), example
    )


def pictures(folder: Path) -> Bundle:
    """A tensor model: which quarter of a 4x4 image is the brightest."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "quarter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 1, 4, 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 4])],
    )
    signature = Signature(
        "classification", "quarter", tensor=Tensor("image", (1, 4, 4)), labels=(0, 1, 2, 3)
    )
    row = [0.0] * 16
    row[10] = row[11] = row[14] = row[15] = 1.0
    odds = np.exp([0.0, 0.0, 0.0, 1.0])
    answer = Given(3, tuple(map(float, odds / odds.sum())))
    return write_bundle(
        folder,
        signature,
        [ModelInput("image", "float32")],
        ModelOutputs(probabilities="probabilities"),
        _model(graph),
        Example((tuple(row),), (answer,)),
    )


MAKERS: dict[str, Callable[[Path], Bundle]] = {
    "classifier": classifier,
    "regressor": regressor,
    "pictures": pictures,
}


def put(shelf: Path, name: str, version: str, made: Bundle) -> ShelfEntry:
    return shelves.install_bundle(shelf, name, version, made.path, made.digest)


def make_shelf(
    shelf: Path, names: Sequence[str] = tuple(MAKERS), default: str | None = "classifier"
) -> Path:
    """A shelf with version 1 of the named models."""
    placed = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            placed[name] = put(shelf, name, "1", MAKERS[name](Path(folder) / "bundle"))
    state = ShelfState(default=default, models=placed, synced_at=time.time())
    shelves.write_state(shelf, state)
    return shelf


@pytest.fixture
def shelf(home: Path) -> Path:
    """A shelf in a new home with the three models; `classifier` is the default."""
    return make_shelf(home / "shelf")


@pytest.fixture
def key(home: Path) -> str:
    """A key with the scope `predict` in the home's keyring."""
    ring, token, _ = keyring.add(keyring.new_keyring(), ("predict",), name="test")
    keyring.save(home / "keys.json", ring)
    return token


class Running:
    """A server in a thread of the test process."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.listener = bind("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        self.server = server
        self.thread = threading.Thread(target=server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        wait_until(lambda: server.started or not self.thread.is_alive(), "the server to start")

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server did not stop"

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(
        self, path: str, body: Any = None, key: str | None = None, *, method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """One request on a connection of its own; `body` is sent as JSON unless it is bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        sent = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        verb = method or ("GET" if body is None else "POST")
        try:
            connection.request(verb, path, data, {**sent, **(headers or {})})
            got = connection.getresponse()
            return Answer(got.status, dict(got.headers.items()), got.read())
        finally:
            connection.close()


class Tidemill(Running):
    """The data plane in a thread, with access to its service."""

    def __init__(
        self,
        settings: ServingSettings,
        fallback: Any = None,
        load_runtime: LoadRuntime | None = None,
    ) -> None:
        load_runtime = load_runtime or runtime_loader(settings)  # without the sandbox: it is slow
        self.service = Service(settings, load_runtime=load_runtime)
        app = ServingApp(self.service, fallback)
        super().__init__(ServingServer(settings, app))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def wait_until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true value that `holds` returns."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {seconds} s")


def wait_read(connection: socket.socket) -> None:
    """Wait until the server has read everything sent so far."""
    ours, theirs = _kernels(connection.getsockname()), _kernels(connection.getpeername())

    def all_read() -> bool:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        queues = {(line[1], line[2]): line[4].split(":") for line in lines[1:]}
        unsent, unread = queues[ours, theirs][0], queues[theirs, ours][1]
        return int(unsent, 16) == int(unread, 16) == 0

    wait_until(all_read, "the server to read")


def _kernels(address: tuple[str, int]) -> str:
    """An address in the format of /proc/net/tcp."""
    host, port = address
    return f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"


Start = Callable[..., Tidemill]


@contextlib.contextmanager
def starting(home: Path) -> Iterator[Start]:
    """Starts data planes with a home; keyword arguments are settings."""
    running: list[Tidemill] = []

    def begin(
        fallback: Any = None, load_runtime: LoadRuntime | None = None, **settings: Any
    ) -> Tidemill:
        given = {"home": str(home), "auth": "off", "poll": 0.02, **settings}
        running.append(Tidemill(load({}, **given), fallback, load_runtime))
        return running[-1]

    try:
        yield begin
    finally:
        for each in running:
            each.stop()


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts data planes with the test's home."""
    with starting(home) as begin:
        yield begin


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tidemill]:
    """A data plane without keys with the three models, for tests that change nothing."""
    home = tmp_path_factory.mktemp("home")
    make_shelf(home / "shelf")
    with starting(home) as begin:
        yield begin()
