"""Charts as SVG. Their colours come from the style sheet, and match those of the PNG plots.

Each has a title that describes it for screen readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320.0, 96.0


@dataclass(frozen=True)
class Point:
    """A value at a position on the x axis, with its interval if there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    alarm: bool = False


def sparkline(values: Sequence[float], title: str) -> Markup:
    """A small curve without axes; a flat line without values."""
    top = max([*values, 1e-9])
    step = 120.0 / max(len(values) - 1, 1)
    points = " ".join(f"{i * step:.1f},{27 - 24 * v / top:.1f}" for i, v in enumerate(values))
    line = f'<polyline class="line" points="{points or "0,27 120,27"}"/>'
    return _svg(120, 30, title, line, "spark")


def histograms(
    edges: Sequence[float], reference: Sequence[float], window: Sequence[float], title: str,
    *, alarm: bool = False,
) -> Markup:  # fmt: skip
    """Two histograms over the same edges: the reference filled, the window as a line.

    Args:
        edges: [bins + 1], rising; the outermost bins are drawn no wider than the others.
        reference, window: The share of rows in each bin.
    """
    if len(edges) < 2 or len(reference) != len(edges) - 1:
        return Markup("")
    places = _drawn_edges(edges)
    widths = [max(b - a, 1e-12) for a, b in itertools.pairwise(places)]
    heights = [
        [s / w for s, w in zip(shares, widths, strict=True)] for shares in (reference, window)
    ]
    top = max([*heights[0], *heights[1], 1e-12])
    low, span = places[0], max(places[-1] - places[0], 1e-12)
    xs = [WIDTH * (edge - low) / span for edge in places]
    shapes = [_stairs(xs, [(HEIGHT - 6) * h / top for h in each]) for each in heights]
    body = (
        f'<path class="reference" d="{shapes[0]} Z"/>'
        f'<path class="window{" alarm" if alarm else ""}" d="{shapes[1]}"/>'
        f'<line class="axis" x1="0" x2="{WIDTH:g}" y1="{HEIGHT:g}" y2="{HEIGHT:g}"/>'
        f'<text class="tick" x="0" y="{HEIGHT + 12:g}">{_tick(places[0])}</text>'
        f'<text class="tick end" x="{WIDTH:g}" y="{HEIGHT + 12:g}">{_tick(places[-1])}</text>'
    )
    return _svg(WIDTH, HEIGHT + 16, title, body, "chart")


def category_bars(
    labels: Sequence[str], reference: Sequence[float], window: Sequence[float], title: str,
    *, alarm: bool = False,
) -> Markup:  # fmt: skip
    """The share of each category in the reference and in the window, as two bars each."""
    row, left = 24.0, 110.0
    top = max([*reference, *window, 1e-12])
    parts, kind = [], "bar alarm" if alarm else "bar"
    for index, (label, old, new) in enumerate(zip(labels, reference, window, strict=False)):
        y, room = index * row, WIDTH - left - 44
        widths = [max(room * share / top, 0.5) for share in (old, new)]
        name = label if len(label) <= 16 else label[:15] + "…"
        parts.append(
            f'<text class="tick end" x="{left - 8:g}" y="{y + 14:g}">{escape(name)}</text>'
            f'<rect class="reference" x="{left:g}" y="{y + 2:g}" '
            f'width="{widths[0]:.1f}" height="8"/>'
            f'<rect class="{kind}" x="{left:g}" y="{y + 11:g}" width="{widths[1]:.1f}" height="8"/>'
            f'<text class="tick" x="{left + max(widths) + 6:.1f}" y="{y + 14:g}">{new:.0%}</text>'
        )
    return _svg(WIDTH, max(len(parts), 1) * row, title, "".join(parts), "chart")


def line_chart(
    points: Sequence[Point],
    title: str,
    *,
    reference: float | None = None,
    level: float | None = None,
) -> Markup:
    """Values over time with their intervals; alarms are squares in the alarm's colour.

    Args:
        reference: A dashed line: the value at training.
        level: A dotted line: the alarm threshold.
    """
    if not points:
        return Markup("")
    width, height, left = 640.0, 150.0, 52.0
    marked = [v for v in (reference, level) if v is not None]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None] + marked
    low, high = min(ys), max(ys)
    pad = (high - low) * 0.1 or abs(high) * 0.1 or 0.1
    low, high = low - pad, high + pad
    first, last = points[0].x, points[-1].x

    def at_x(x: float) -> float:
        return left + (width - left - 12) * ((x - first) / (last - first) if last > first else 0.5)

    def at_y(y: float) -> float:
        return 8 + (height - 16) * (high - y) / (high - low)

    body = [_grid(at_y(value), value, left, width) for value in (low + pad, high - pad)]
    for value, kind in ((reference, "held-out"), (level, "level")):
        if value is not None:
            y = at_y(value)
            body.append(
                f'<line class="{kind}" x1="{left:g}" x2="{width:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
    body.append(_band(points, at_x, at_y))
    line = " ".join(f"{at_x(p.x):.1f},{at_y(p.y):.1f}" for p in points)
    body.append(f'<polyline class="line" points="{line}"/>')
    body += [_dot(at_x(p.x), at_y(p.y), p.alarm) for p in points]
    return _svg(width, height, title, "".join(body), "chart wide")


def difference_interval(value: float, low: float, high: float, title: str) -> Markup:
    """A difference with its interval, around a line at zero."""
    reach = max(abs(low), abs(high), abs(value), 1e-12) * 1.15

    def at(x: float) -> float:
        return 110 + 100 * x / reach

    body = (
        '<line class="axis" x1="110" x2="110" y1="2" y2="26"/>'
        f'<line class="whisker" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="14" y2="14"/>'
        f'<circle class="dot" cx="{at(value):.1f}" cy="14" r="5"/>'
        '<text class="tick" x="0" y="18">worse</text>'
        '<text class="tick end" x="220" y="18">better</text>'
    )
    return _svg(220, 28, title, body, "interval")


def compared_values(
    values: Sequence[float | None], intervals: Sequence[tuple[float, float] | None], title: str
) -> Markup:
    """Two values with their intervals on one axis; the second value is a square."""
    known = [v for v in values if v is not None]
    ends = [*known, *(bound for pair in intervals if pair for bound in pair)]
    if not ends:
        return Markup("")
    low, span = min(ends), max(max(ends) - min(ends), 1e-12)

    def at(x: float) -> float:
        return 8 + 144 * (x - low) / span if max(ends) > low else 80.0

    parts = []
    for index, (value, pair) in enumerate(zip(values, intervals, strict=True)):
        y = 10 + 16 * index
        if pair is not None:
            parts.append(
                f'<line class="whisker" x1="{at(pair[0]):.1f}" x2="{at(pair[1]):.1f}" '
                f'y1="{y}" y2="{y}"/>'
            )
        if value is not None:
            x = at(value)
            square = f'<rect class="dot" x="{x - 4:.1f}" y="{y - 4}" width="8" height="8"/>'
            parts.append(
                square if index else f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="4.5"/>'
            )
    return _svg(160, 36, title, "".join(parts), "interval")


def _drawn_edges(edges: Sequence[float]) -> list[float]:
    """The outermost bins no wider than the mean of the others: they reach to the extremes."""
    places = list(map(float, edges))
    if len(places) > 3:
        width = (places[-2] - places[1]) / (len(places) - 3)
        places[0] = max(places[0], places[1] - width)
        places[-1] = min(places[-1], places[-2] + width)
    if places[0] == places[-1]:
        places = [places[0] - 0.5 + i / (len(places) - 1) for i in range(len(places))]
    return places


def _stairs(xs: Sequence[float], heights: Sequence[float]) -> str:
    steps = [f"M{xs[0]:.1f} {HEIGHT:g}"]
    for left, right, height in zip(xs, xs[1:], heights, strict=False):
        steps.append(f"L{left:.1f} {HEIGHT - height:.1f}L{right:.1f} {HEIGHT - height:.1f}")
    return "".join([*steps, f"L{xs[-1]:.1f} {HEIGHT:g}"])


def _band(points: Sequence[Point], at_x: object, at_y: object) -> str:
    parts = []
    for p in points:
        if p.low is not None and p.high is not None:
            x = at_x(p.x)  # type: ignore[operator]
            y1, y2 = at_y(p.low), at_y(p.high)  # type: ignore[operator]
            parts.append(
                f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
            )
    return "".join(parts)


def _dot(x: float, y: float, alarm: bool) -> str:
    if alarm:
        return f'<rect class="dot alarm" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _grid(y: float, value: float, left: float, width: float) -> str:
    return (
        f'<line class="grid" x1="{left:g}" x2="{width:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick end" x="{left - 6:g}" y="{y + 4:.1f}">{_tick(value)}</text>'
    )


def _tick(value: float) -> str:
    return f"{value:.3g}"


def _svg(width: float, height: float, title: str, body: str, kind: str) -> Markup:
    stretch = ' preserveAspectRatio="none"' if kind == "spark" else ""
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}"{stretch} role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )
