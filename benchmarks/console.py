"""How soon the console shows something useful: `python -m benchmarks.console [--visits 20]`.

A browser without anything kept opens the overview of a Tidemill that serves one model; the clock of
the page itself tells when the first content was painted and when the model's loop was. Needs
Chromium.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from scripts import screenshots as tools

#: Notes the moment after the frame in which the first model's loop is there.
WATCH = """
new MutationObserver((_, watch) => {
  if (!document.querySelector("article.loop .stations")) return;
  watch.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.useful = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
TOLD = """() => window.useful && performance.getEntriesByName("first-contentful-paint").length && [
  performance.getEntriesByName("first-contentful-paint")[0].startTime, window.useful,
  performance.getEntriesByType("navigation")[0].transferSize
    + performance.getEntriesByType("resource").reduce((sum, one) => sum + one.transferSize, 0),
]"""


def visits(browser: Any, url: str, cookies: list[Any], count: int) -> list[tuple[float, ...]]:
    """First paint and the loop's paint in milliseconds, and bytes loaded, of each fresh visit."""
    found = []
    for _ in range(count):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies(cookies)
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{url}/console/")
        found.append(tuple(page.wait_for_function(TOLD).json_value()))
        context.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=20)
    options = parser.parse_args()
    with tools.tidemill() as (url, key), tools.browsing() as browser:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(tools.PATIENCE)
        tools.sign_in(page, url, key)
        page.locator("article.loop").wait_for()
        cookies = context.cookies()
        context.close()
        found = visits(browser, url, cookies, options.visits)
    for name, values, unit in (
        ("first content painted", [one[0] for one in found], "ms"),
        ("the model's loop painted", [one[1] for one in found], "ms"),
        ("loaded", [one[2] / 1024 for one in found], "KiB"),
    ):
        middle, most = statistics.median(values), max(values)
        print(f"{name:26} median {middle:6.0f} {unit}, most {most:6.0f} {unit}")


if __name__ == "__main__":
    main()
