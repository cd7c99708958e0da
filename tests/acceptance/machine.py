"""A Tidemill home, commands that run in it, and a server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port, wait_until

PATIENCE = 300.0


@dataclass
class Machine:
    """A machine with a Tidemill home, and the commands a person types on it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / ".tidemill"

    @property
    def store(self) -> str:
        """The tracking store in the home."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def key(self) -> str:
        return (self.home / "key").read_text().strip()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `tidemill WORDS...` to its end, whatever that is."""
        return subprocess.run(
            [sys.executable, "-m", "tidemill", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 3,
            check=False,
        )

    def run(self, *words: str) -> str:
        """Run `tidemill WORDS...`, which must succeed; its output."""
        done = self.command(*words)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "TIDEMILL_HOME": str(self.home),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.environment,
        }

    def train(self, reference: str, *more: str) -> dict[str, Any]:
        """Train and promote a project, once; what `tidemill train --json` says.

        The gate's verdict is added as `verdict`.
        """
        if reference not in self.results:
            said = self.run("train", "--project", reference, "--promote", "--json", *more)
            self.results[reference] = json.loads(said)
        return self.results[reference]

    @contextlib.contextmanager
    def serving(self, *models: str) -> Iterator[Server]:
        """`tidemill serve MODELS...` while the block runs."""
        port, log = free_port(), self.folder / "serve.txt"
        command = [sys.executable, "-m", "tidemill", "serve", *models, "--port", str(port)]
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=out, stderr=subprocess.STDOUT
            )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            wait_until(server.is_ready, "the server to be ready", PATIENCE)
            server.client.headers["X-API-Key"] = self.key
            yield server
        finally:
            server.client.close()
            process.terminate()
            process.wait(300)

    def native(self, model: str) -> Any:
        """The champion as MLflow's users load it, once."""
        if model not in self.loaded:
            import mlflow

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mlflow.set_tracking_uri(self.store)
                self.loaded[model] = mlflow.pyfunc.load_model(f"models:/{model}@champion")
        return self.loaded[model]

    def runs(self, model: str, kind: str) -> Any:
        """The runs of a model's experiment as MLflow's own client lists them."""
        import mlflow

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.set_tracking_uri(self.store)
            return mlflow.search_runs(
                experiment_names=[model], filter_string=f"tags.`tidemill.kind` = '{kind}'"
            )


@dataclass
class Server:
    """A served address, and a client with the user's key."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=PATIENCE))

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def models(self) -> set[str]:
        """The models in service."""
        return set(self.client.get(f"{self.url}/ready").json()["models"])

    def ask(self, path: str, body: Any) -> dict[str, Any]:
        answer = self.client.post(f"{self.url}{path}", json=body)
        assert answer.status_code == 200, answer.text
        read: dict[str, Any] = answer.json()
        return read

    def programs(self) -> list[int]:
        """The served process and all below it."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                parents[int(stat.parent.name)] = int(fields[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found
