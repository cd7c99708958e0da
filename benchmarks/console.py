"""Measure the load time of the console: `python -m benchmarks.console [--loads 20]`.

A browser with an empty cache opens the overview page of a Tidemill that serves one model. The
page's performance clock gives the times of the first contentful paint and of the model's diagram.
Needs Chromium.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from scripts import screenshots as tools

#: Stores the time after the frame that paints the first model's diagram.
WATCH = """
new MutationObserver((_, watch) => {
  if (!document.querySelector("article.loop .stations")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.useful = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
TIMES = """() => window.useful && performance.getEntriesByName("first-contentful-paint").length && [
  performance.getEntriesByName("first-contentful-paint")[0].startTime, window.useful,
  performance.getEntriesByType("navigation")[0].transferSize
    + performance.getEntriesByType("resource").reduce((sum, one) => sum + one.transferSize, 0),
]"""


def page_loads(browser: Any, url: str, cookies: list[Any], count: int) -> list[tuple[float, ...]]:
    """Measure first paint and diagram paint in ms, and bytes transferred, per uncached load."""
    found = []
    for _ in range(count):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies(cookies)
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{url}/console/")
        found.append(tuple(page.wait_for_function(TIMES).json_value()))
        context.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", "--visits", type=int, default=20)
    options = parser.parse_args()
    with tools.tidemill() as (url, key), tools.browsing() as browser:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(tools.TIMEOUT)
        tools.sign_in(page, url, key)
        page.locator("article.loop").wait_for()
        cookies = context.cookies()
        context.close()
        found = page_loads(browser, url, cookies, options.loads)
    for name, values, unit in (
        ("first contentful paint", [one[0] for one in found], "ms"),
        ("model diagram painted", [one[1] for one in found], "ms"),
        ("transferred", [one[2] / 1024 for one in found], "KiB"),
    ):
        median, maximum = statistics.median(values), max(values)
        print(f"{name:26} median {median:6.0f} {unit}, max {maximum:6.0f} {unit}")


if __name__ == "__main__":
    main()
