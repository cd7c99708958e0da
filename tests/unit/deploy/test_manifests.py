"""The deployment files, tested without containers."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tidemill import keyring
from tidemill.serving.service import Service
from tidemill.serving.settings import ServingSettings

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def maker() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_secrets", str(DEPLOY / "make-secrets"))
    spec = importlib.util.spec_from_loader("make_secrets", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_first_key_opens_the_keyring_that_was_made_with_it(
    maker: ModuleType, tmp_path: Path
) -> None:
    maker.main(tmp_path / "secrets")
    ring = keyring.load(tmp_path / "secrets" / "keys.json")
    token = (tmp_path / "secrets" / "first_key").read_text()
    found = ring.find(token)
    assert found is not None
    assert token.startswith(f"{keyring.PREFIX}{found.id}_")
    assert found.scopes == ("admin",)
    assert ring.find(token[:-1] + "x") is None


def test_secrets_that_are_there_stay(maker: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    maker.main(folder)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    maker.main(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_no_two_secrets_are_the_same(maker: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        maker.main(tmp_path / name)
    texts = [path.read_text() for path in tmp_path.glob("*/*") if path.name != "redis.conf"]
    assert len(set(texts)) == len(texts)


def test_every_secret_that_compose_asks_for_is_made(maker: ModuleType, tmp_path: Path) -> None:
    maker.main(tmp_path)
    wanted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["secrets"]
    assert {Path(entry["file"]).name for entry in wanted.values()} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_the_locks_name_hashes_and_no_address() -> None:
    for lock in (DEPLOY / "locks").glob("*.txt"):
        text = lock.read_text()
        pinned = re.findall(r"^[a-z][^=\n]*==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 0
        assert "://" not in text
        assert "index" not in text


def test_the_proxy_sends_every_path_of_the_data_plane_to_it(tmp_path: Path) -> None:
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    fixed = re.search(r"@serve path (.*)", text)
    expression = re.search(r"@model path_regexp (\S+)", text)
    assert fixed is not None
    assert expression is not None
    globs = fixed[1].split()

    def is_served(path: str) -> bool:
        plain = any(
            path == glob or (glob.endswith("*") and path.startswith(glob[:-1])) for glob in globs
        )
        return plain or re.search(expression[1], path) is not None

    service = Service(ServingSettings(home=str(tmp_path)))
    paths = {route.path for p in service.protocols for route in p.routes} - {"/metrics"}
    missed = [path for path in paths if not is_served(path.replace("{", "").replace("}", ""))]
    assert missed == []
    assert not is_served("/models/churn/promote")


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def test_every_alert_has_its_runbook() -> None:
    for alert in alerts():
        page = DEPLOY.parent / alert["annotations"]["runbook"]
        assert alert["alert"] in page.read_text(), alert["alert"]


def test_every_alert_is_tested_to_fire() -> None:
    tests = (DEPLOY / "test" / "rules" / "alerts.yml").read_text()
    assert [a["alert"] for a in alerts() if a["alert"] not in tests] == []


def test_the_dashboards_are_what_their_table_says() -> None:
    subprocess.run(
        [sys.executable, str(DEPLOY / "grafana" / "make-dashboards"), "--check"], check=True
    )


def pods() -> list[dict[str, Any]]:
    """Return the pod template of every manifest that has one."""
    found = []
    for path in (DEPLOY / "k8s").rglob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            spec = each.get("spec", {})
            spec = spec.get("jobTemplate", {}).get("spec", spec)
            if isinstance(spec, dict) and "containers" in spec.get("template", {}).get("spec", {}):
                found.append(spec["template"]["spec"])
    return found


def test_a_container_that_is_told_of_secret_files_has_them() -> None:
    told = [
        container
        for pod in pods()
        for container in pod["containers"]
        if container["image"] == "tidemill-platform" and "envFrom" in container
    ]
    assert len(told) >= 6
    for container in told:
        assert "/secrets" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_no_pod_has_more_rights_than_it_needs() -> None:
    assert len(pods()) >= 8
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, container["name"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} == container["resources"].keys()
