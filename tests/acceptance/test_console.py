"""The console in headless Chromium against a real `tidemill up`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from scripts import screenshots as shots
from tests.acceptance.digits import digits_on_shelf
from tests.acceptance.test_up import Up, running
from tests.contract.serving.conftest import make_shelf
from tests.contract.test_console import both_planes
from tests.servers import wait_until
from tidemill.gallery.mnist import small_images
from tidemill.platform import Platform
from tidemill.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 240_000.0  # milliseconds; the machine may be busy
MODEL = "iris-classifier"
PAGES = (
    "/", "/models", f"/models/{MODEL}", f"/models/{MODEL}/compare", f"/models/{MODEL}/try",
    f"/models/{MODEL}/challenger", f"/models/{MODEL}/challenger/traffic?version=2&share=10",
    f"/models/{MODEL}/monitoring", f"/models/{MODEL}/promote", f"/models/{MODEL}/rollback",
    "/monitoring", "/jobs", f"/train?model={MODEL}", "/audit", "/logs", "/requests", "/settings",
    "/nowhere",
)  # fmt: skip


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shots.chromium() is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("console") / ".tidemill"
    with running(home, "--first", "gallery:iris") as up:
        up.await_text(f"from {MODEL}")
        yield up


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with shots.browsing() as browser:
        yield browser


def signed_in(browser: Browser, served: Up, **options: Any) -> Page:
    """A page of a new browser, signed in, which fails the test on any error of its scripts."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    context.set_default_navigation_timeout(PATIENCE)
    page = context.new_page()
    page.faults = []  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.faults.append(str(error)))  # type: ignore[attr-defined]
    key = (served.output.parent / ".tidemill" / "key").read_text().strip()
    shots.sign_in(page, served.api, key)
    return page


@pytest.fixture
def page(browser: Browser, served: Up) -> Iterator[Page]:
    page = signed_in(browser, served, viewport={"width": 1440, "height": 900})
    yield page
    assert page.faults == []  # type: ignore[attr-defined]
    page.context.close()


def visit(page: Page, served: Up, path: str) -> None:
    page.goto(f"{served.api}/console{path}")
    page.locator(".loading").first.wait_for(state="detached")


def test_a_prediction_works_and_an_invalid_field_is_named(page: Page, served: Up) -> None:
    visit(page, served, f"/models/{MODEL}/try")
    page.get_by_role("button", name="Predict").click()
    page.locator(".prediction").wait_for()
    assert page.locator(".prediction").inner_text().startswith("Iris-")
    assert page.locator(".bars progress").count() == 3
    first = page.locator("[data-field]").first
    first.fill("wide")
    page.get_by_role("button", name="Predict").click()
    page.locator("#answer .notice").wait_for()
    assert str(first.get_attribute("data-field")) in page.locator("#answer").inner_text()
    assert first.get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Stop").count() == 0, (
        "it is there while a file is scored"
    )
    code = page.locator("[data-snippet=curl]").inner_text()
    assert f"{served.api}/models/{MODEL}/predict" in code


def test_a_form_that_loads_late_works(page: Page, served: Up) -> None:
    """Where the data plane is slow to tell what it serves, the page is shown without the form."""

    def late(route: Any) -> None:
        if route.request.resource_type != "document":
            route.continue_()
            return
        answer = route.fetch()
        whole = re.compile(r'(<div id="page">).*(</div>\s*</main>)', re.DOTALL)
        body, count = whole.subn(r"\1<p class=loading>Asking …</p>\2", answer.text())
        assert count == 1
        route.fulfill(response=answer, body=body)

    page.route("**/try", late)
    visit(page, served, f"/models/{MODEL}/try")
    page.get_by_role("button", name="Predict").click()
    page.locator(".prediction").wait_for()


def test_a_file_is_scored_with_progress_and_downloaded(
    page: Page, served: Up, tmp_path: Path
) -> None:
    visit(page, served, f"/models/{MODEL}/try")
    names = [str(each.get_attribute("data-field")) for each in page.locator("[data-field]").all()]
    rows = ["5.1,3.5,1.4,0.2"] * 1200 + ["5.1,tall,1.4,0.2"]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([",".join(names), *rows]) + "\n")
    page.get_by_label("A CSV file with the columns").set_input_files(file)
    page.get_by_role("button", name="Score", exact=True).click()
    link = page.get_by_role("link", name="Download")
    link.wait_for()
    assert "1201 rows scored, 1 of them refused" in page.locator("#batch-said").inner_text()
    with page.expect_download() as download:
        link.click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 1202
    assert lines[0].startswith(",".join(names) + ",prediction,confidence,probability_")
    assert ",Iris-setosa," in lines[1]
    assert "tall" in lines[-1].partition(",1.4")[2] or "sepal" in lines[-1]


def test_a_training_is_followed_promoted_and_rolled_back(page: Page, served: Up) -> None:
    visit(page, served, "/jobs")
    page.get_by_role("link", name="Start a training").first.click()
    visit(page, served, f"/train?model={MODEL}")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("The training is queued.").wait_for()
    # Without loading the page again:
    page.get_by_role("heading", name="Result").wait_for()
    assert "succeeded" in page.locator(".state").inner_text()
    page.get_by_role("link", name="Promote it").click()
    page.get_by_role("heading", name=re.compile("Promote version 2")).wait_for()
    assert "v2" in page.locator("table.change").inner_text()
    page.locator("form button.main").last.click()
    closed = page.get_by_text("The gate refused version 2")
    closed.wait_for()
    page.wait_for_timeout(3000)  # longer than a page that is followed takes to change
    assert closed.is_visible()
    page.locator("#reason").fill("seen in the console")
    page.get_by_label("Override the gate").check()
    page.locator("form button.main").last.click()
    page.get_by_text("Version 2 is champion now").wait_for()
    page.locator("tr.champion", has_text="v2").wait_for()
    page.get_by_text("v2 onnx").or_(page.get_by_text("v2 skops")).first.wait_for()
    page.get_by_role("link", name="Roll back").click()
    page.locator("#reason").fill("back again")
    page.get_by_role("button", name="Roll back to v1").click()
    page.get_by_text("version 1 is champion again").wait_for()
    visit(page, served, "/audit")
    table = page.locator("table").inner_text()
    assert "seen in the console" in table
    assert "back again" in table
    page.get_by_role("link", name="Verify the hash chain").click()
    page.get_by_text("are intact").wait_for()


def test_changes_by_others_appear_without_a_reload(page: Page, served: Up) -> None:
    visit(page, served, f"/models/{MODEL}")
    page.locator("tr.champion", has_text="v1").wait_for()
    order = {"version": "2", "force": True, "reason": "by another"}
    ask(served, f"/models/{MODEL}/promote", order)
    page.locator("tr.champion", has_text="v2").wait_for()
    ask(served, f"/models/{MODEL}/rollback", {"reason": "back"})
    page.locator("tr.champion", has_text="v1").wait_for()


def ask(served: Up, path: str, body: Any) -> Any:
    """What the API answers to the first key."""
    key = (served.output.parent / ".tidemill" / "key").read_text().strip()
    headers = {"X-API-Key": key}
    answer = httpx.post(f"{served.api}{path}", json=body, headers=headers, timeout=300)
    assert answer.is_success, answer.text
    return answer.json()


def test_a_canary_is_started_followed_and_stopped(page: Page, served: Up) -> None:
    visit(page, served, f"/models/{MODEL}")
    page.get_by_role("link", name="Canary of version 2").click()
    page.get_by_label("Share of callers in percent").fill("100")
    page.get_by_role("button", name="Review the change").click()
    page.get_by_role("heading", name="Start a canary").wait_for()
    assert "100% of the callers, as a canary" in page.locator("table.change").inner_text()
    page.locator("#reason").fill("seen in the console")
    page.get_by_role("button", name="Start the canary").click()
    page.get_by_text("Version 2 answers 100% of the callers").wait_for()
    page.get_by_text("by the server").wait_for()  # without loading the page again
    rows = [[5.1, 3.5, 1.4, 0.2]] * 20
    wait_until(
        lambda: ask(served, f"/models/{MODEL}/predict_batch", {"instances": rows})["version"]
        == "2",
        "the canary to answer", PATIENCE / 1000,
    )  # fmt: skip
    page.get_by_role("heading", name="Version 2 in live traffic").wait_for()
    assert "more answers are needed to judge its latency" in page.locator("main").inner_text()
    page.get_by_label("Off: receive no traffic").check()
    page.get_by_role("button", name="Review the change").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("No challenger receives traffic now").wait_for()


def test_shifted_traffic_shows_as_drift(page: Page, served: Up) -> None:
    shifted = [[5 + i / 100, 3.0, 6.5 + i / 200, 2.5 + i / 1000] for i in range(300)]
    ask(served, f"/models/{MODEL}/predict_batch", {"instances": shifted})

    def looked() -> bool:
        """Ingest stores what was answered some moments later."""
        visit(page, served, f"/models/{MODEL}/monitoring")
        if page.locator(".panels .alarm").count() == 0:
            page.get_by_role("button", name="Check now").click()
            page.locator(".said").wait_for()
        return page.locator(".panels .alarm").count() > 0

    wait_until(looked, "the drift to be found", PATIENCE / 1000)
    assert "moved" in page.locator(".facts").inner_text()
    visit(page, served, "/")
    page.locator(".steps li.bad", has_text="Drift").first.wait_for()


def test_a_live_page_does_not_grow(page: Page, served: Up) -> None:
    visit(page, served, "/")
    counted = "document.querySelectorAll('*').length"
    page.wait_for_timeout(4000)
    before = page.evaluate(counted)
    page.wait_for_timeout(7500)
    assert page.evaluate(counted) <= before + 20


def test_typed_text_survives_live_updates(page: Page, served: Up) -> None:
    visit(page, served, "/jobs")
    page.locator("#model").fill("typed")
    order = {"model": MODEL, "candidates": ["logistic_regression"]}
    job_id = ask(served, "/train", order)["job_id"]
    page.locator(f"a[href$='{job_id}']").first.wait_for()
    assert page.locator("#model").input_value() == "typed"
    assert page.evaluate("document.activeElement.id") == "model"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_axe_finds_nothing_serious_and_pages_fit_the_screen(
    browser: Browser, served: Up, width: int, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = signed_in(
        browser, served, viewport={"width": width, "height": 812}, color_scheme=theme,
        bypass_csp=True,
    )  # fmt: skip
    found = []
    for path in PAGES:
        visit(page, served, path)
        room = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if room > 0:
            found.append(f"{path}: {room} px too wide")
        for fault in Axe().run(page).response["violations"]:
            if fault["impact"] in ("serious", "critical"):
                where = fault["nodes"][0]["target"]
                found.append(f"{path}: {fault['impact']} {fault['id']} at {where}")
    page.context.close()
    assert found == []


def test_the_keyboard_reaches_everything(page: Page, served: Up) -> None:
    visit(page, served, "/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Try it", MODEL} <= reached


def test_nothing_is_loaded_from_other_sites(page: Page, served: Up) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in PAGES:
        visit(page, served, path)
    assert [url for url in asked if not url.startswith((served.api, "data:", "blob:"))] == []


def test_a_key_without_scopes_can_only_look(browser: Browser, served: Up, page: Page) -> None:
    visit(page, served, "/settings")
    page.get_by_label("Name", exact=True).fill("viewer")
    page.get_by_role("button", name="Create a key").click()
    token = page.locator(".notice pre").inner_text()
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    viewer = context.new_page()
    shots.sign_in(viewer, served.api, token)
    viewer.goto(f"{served.api}/console/models/{MODEL}")
    viewer.get_by_role("heading", name=MODEL).wait_for()
    assert viewer.get_by_role("link", name="Promote").count() == 0
    viewer.goto(f"{served.api}/console/models/{MODEL}/promote")
    viewer.get_by_text("does not have the scope 'promote'").wait_for()
    context.close()


def drawn(*strokes: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    return list(strokes)


def arc(x: float, y: float, r: float, begin: float, end: float) -> list[tuple[float, float]]:
    """Part of a circle, from the right downwards, in degrees."""
    angles = [math.radians(begin + (end - begin) * i / 14) for i in range(15)]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for angle in angles]


DRAWN = {
    0: drawn([(x, 140 + 1.5 * (y - 140)) for x, y in arc(140, 140, 55, -90, 270)]),
    2: drawn([*arc(140, 100, 50, 180, 380), (90, 225), (200, 225)]),
    4: drawn([(110, 50), (85, 150), (195, 150)], [(165, 60), (165, 235)]),
    9: drawn([*arc(140, 105, 48, 0, -360), (188, 105), (180, 235)]),
}


def test_digits_drawn_with_the_mouse_are_recognised(browser: Browser, home: Path) -> None:
    assert digits_on_shelf(home, small_images()) > 0.95
    platform = Platform.open(Settings(home=home, tracking_uri="http://127.0.0.1:9"))
    try:
        token, _ = platform.keys.create(("predict",), actor="test")
        with both_planes(platform) as url:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(PATIENCE)
            shots.sign_in(page, url, token)
            page.goto(f"{url}/console/models/digits/try")
            assert {digit: read(page, strokes) for digit, strokes in DRAWN.items()} == {
                digit: digit for digit in DRAWN
            }
            assert page.locator(".bars progress").count() == 10
            page.close()
    finally:
        platform.close()


def read(page: Page, strokes: list[list[tuple[float, float]]]) -> int:
    """Draw on the cleared canvas, and wait for the answer to the last stroke."""
    page.get_by_role("button", name="Clear").click()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    for (x, y), *others in strokes:
        with page.expect_response("**/predict") as answer:
            page.mouse.move(box["x"] + x, box["y"] + y)
            page.mouse.down()
            for x, y in others:
                page.mouse.move(box["x"] + x, box["y"] + y, steps=2)
            page.mouse.up()
    prediction: int = answer.value.json()["prediction"]
    return prediction


def test_a_drawn_picture_is_predicted(browser: Browser, home: Path) -> None:
    """The model says which quarter of a 4x4 picture is the brightest; strokes are centred and
    scaled before it sees them, so a dot spreads over all four, and the example over one."""
    make_shelf(home / "shelf", ["pictures"], default=None)
    settings = Settings(home=home, tracking_uri="http://127.0.0.1:9")
    platform = Platform.open(settings)
    try:
        token, _ = platform.keys.create(("predict",), actor="test")
        with both_planes(platform) as url:
            context = browser.new_context()
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            shots.sign_in(page, url, token)
            page.goto(f"{url}/console/models/pictures/try")
            page.get_by_role("button", name="Load the example").click()
            page.locator(".prediction").wait_for()
            assert page.locator(".prediction").inner_text() == "3"
            page.get_by_role("button", name="Clear").click()
            page.get_by_text("Draw something.").wait_for()
            canvas = page.locator("#canvas")
            canvas.scroll_into_view_if_needed()
            box = canvas.bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + 60, box["y"] + 60)
            page.mouse.down()
            page.mouse.move(box["x"] + 200, box["y"] + 200, steps=8)
            page.mouse.up()
            page.locator(".prediction").wait_for()
            assert page.locator(".bars progress").count() == 4
            page.get_by_role("button", name="Clear").click()
            canvas.focus()
            page.keyboard.press("Space")
            for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
                page.keyboard.press(key)
            page.keyboard.press("Space")
            page.locator(".prediction").wait_for()
            context.close()
    finally:
        platform.close()
