"""Take screenshots of every console page, in two widths and both themes.

    python scripts/screenshots.py --out screenshots          # starts its own Tidemill
    python scripts/screenshots.py --url http://127.0.0.1:8000 --key "$(cat .tidemill/key)"

Needs Chromium (set `CHROMIUM` if it is not on the path) and the package playwright.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Disables first-run pages, background traffic and other interference.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: Trains a second version to compare the first with.
SECOND = {"model": "ClassificationModel", "C": 0.01, "trials": 1}
SIZES = {"wide": (1440, 900), "narrow": (375, 812)}
THEMES = ("light", "dark")
#: The screenshots that the documentation shows.
DOCS = {
    ("overview", "wide", "light"),
    ("model-monitoring", "wide", "light"),
    ("model-try", "wide", "dark"),
}
#: Loads lazy images, so that a full-page screenshot contains all of them.
PICTURES_LOADED = """() => Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.complete || new Promise((done) => { image.onload = image.onerror = done; });
}))"""
TIMEOUT = 120_000.0  # milliseconds; the machine may be busy


def chromium() -> str | None:
    """Return the path of Chromium, or None."""
    named = os.environ.get("CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def sign_in(page: Page, url: str, key: str) -> None:
    """Sign in to the console with an API key."""
    page.goto(f"{url}/console/sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()


def pages_of(page: Page, url: str) -> dict[str, str]:
    """Return the path of every page by name, for the first model."""
    page.goto(f"{url}/console/models")
    links = page.locator("tbody th a")
    links.first.wait_for()
    found = {
        "overview": "/console/",
        "models": "/console/models",
        "monitoring": "/console/monitoring",
        "jobs": "/console/jobs",
        "train": "/console/train",
        "audit": "/console/audit",
        "logs": "/console/logs",
        "requests": "/console/requests",
        "settings": "/console/settings",
        "missing": "/console/nowhere",
    }
    models = [str(link.get_attribute("href")) for link in links.all()]
    model = max(models, key=lambda href: _versions(page, url + href))
    for name in ("", "compare", "challenger", "try", "monitoring", "promote", "rollback"):
        found[f"model-{name}" if name else "model"] = f"{model}/{name}".rstrip("/")
    found["model-canary"] = f"{model}/challenger/traffic?version=2&share=10"
    page.goto(f"{url}/console/jobs")
    job = page.locator("tbody th a")
    if job.count():
        found["job"] = str(job.first.get_attribute("href"))
    return found


def _versions(page: Page, url: str) -> int:
    page.goto(url)
    return page.locator("tbody tr").count()


def run_check(browser: Browser, url: str, key: str) -> None:
    """Run a monitoring check of the first model once its predictions are stored."""
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT)
    sign_in(page, url, key)
    page.goto(f"{url}/console/models/ClassificationModel/monitoring")
    while not page.locator(".panels").count():
        page.get_by_role("button", name="Check now").click()
        page.locator(".said").wait_for()
    page.close()


def shoot(browser: Browser, url: str, key: str, out: Path, docs: Path | None = None) -> list[Path]:
    """Take a screenshot of every page and return the paths.

    Args:
        docs: Folder for the three screenshots of the documentation, cropped to the viewport.
    """
    written = []
    for size, (width, height) in SIZES.items():
        for theme in THEMES:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,
                device_scale_factor=1 if size == "wide" else 2,
            )
            context.set_default_timeout(TIMEOUT)
            page = context.new_page()
            page.goto(f"{url}/console/sign-in")
            written.append(_picture(page, out, "sign-in", size, theme))
            sign_in(page, url, key)
            for name, path in pages_of(page, url).items():
                page.goto(url + path)
                _prepare(page, name)
                written.append(_picture(page, out, name, size, theme))
                if docs is not None and (name, size, theme) in DOCS:
                    page.screenshot(path=docs / f"console-{name}.png")
            context.close()
    return written


def _prepare(page: Page, name: str) -> None:
    """Wait until the page has loaded; on the prediction page, send a prediction."""
    if name == "model-try":
        page.get_by_role("button", name="Predict").click()
        page.locator(".prediction").wait_for()
    page.locator(".loading").first.wait_for(state="detached", timeout=TIMEOUT)
    page.evaluate(PICTURES_LOADED)


def _picture(page: Page, out: Path, name: str, size: str, theme: str) -> Path:
    path = out / f"{name}-{size}-{theme}.png"
    page.evaluate("scrollTo(0, 0)")  # a click may have scrolled the page and the sidebar
    page.screenshot(path=path, full_page=True)
    return path


@contextmanager
def tidemill() -> Iterator[tuple[str, str]]:
    """Start a Tidemill with two versions of a model and predictions; yield its URL and key."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / ".tidemill"
        port, mlflow_port = free_port(), free_port()
        command = [sys.executable, "-m", "tidemill"]
        options = ["--home", str(home), "--port", str(port), "--mlflow-port", str(mlflow_port)]
        up = subprocess.Popen([*command, "up", *options], stdout=subprocess.DEVNULL, cwd=folder)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{url}/ready", up)
            key = (home / "key").read_text().strip()
            train(url, key)
            predict(url, key)
            yield url, key
        finally:
            up.terminate()
            up.wait(60)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the URL returns a success status."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("tidemill up exited")


def send(url: str, key: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request to the API and return its JSON response."""
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


def train(url: str, key: str) -> None:
    """Train the second version as a job and wait until it ends."""
    job = send(f"{url}/train", key, SECOND)
    while job["status"] not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = send(f"{url}/jobs/{job['job_id']}", key)
    if job["status"] != "succeeded":
        raise SystemExit(f"the second training {job['status']}")


@contextmanager
def background_predictions(url: str, key: str) -> Iterator[None]:
    """Send predictions during the block, so that the pages show live traffic."""
    ended = threading.Event()

    def send_predictions() -> None:
        while not ended.wait(0.2):
            predict(url, key, 1)

    thread = threading.Thread(target=send_predictions, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def predict(url: str, key: str, times: int = 600) -> None:
    """Send rows of the training distribution to the first model, with two features shifted."""
    from sklearn.datasets import load_breast_cancer

    rng = random.Random() if times == 1 else random.Random(1)
    known = load_breast_cancer().data
    for _ in range(times):
        row = [value * rng.uniform(0.98, 1.02) for value in rng.choice(known)]
        row[0], row[3] = row[0] * 1.25, row[3] * 1.5
        send(f"{url}/models/ClassificationModel/predict", key, {"features": row})


def main() -> None:
    """Parse the command line and write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    parser.add_argument("--url", help="URL of a running Tidemill; by default one is started")
    parser.add_argument("--key")
    parser.add_argument(
        "--docs", type=Path, help="also write the documentation's three screenshots to this folder"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    running = nullcontext((options.url, options.key)) if options.url else tidemill()
    with running as (url, key), browsing() as browser:
        if not options.url:
            run_check(browser, url, key)
        with nullcontext() if options.url else background_predictions(url, key):
            for path in shoot(browser, url, key, options.out, options.docs):
                print(path)


if __name__ == "__main__":
    main()
