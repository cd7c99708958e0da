"""Charts and formatted values: well-formed and bounded for all inputs."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.console import charts, render
from tidemill.console.charts import Point

finite = st.floats(-1e12, 1e12, allow_nan=False)
shares = st.floats(0, 1)


def parsed(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)


@given(st.lists(finite, min_size=2, max_size=25, unique=True), st.data())
def test_histograms_stay_within_their_frame(edges: list[float], data: st.DataObject) -> None:
    bins = len(edges) - 1
    given_shares = [data.draw(st.lists(shares, min_size=bins, max_size=bins)) for _ in range(2)]
    drawing = charts.histograms(sorted(edges), *given_shares, 'a "title" <b>', alarm=True)
    root = parsed(drawing)
    assert root.get("aria-label") == 'a "title" <b>'
    assert "nan" not in drawing
    assert "inf" not in drawing


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.data())
def test_category_names_are_escaped(labels: list[str], data: st.DataObject) -> None:
    labels = ["".join(c for c in label if c.isprintable()) for label in labels]
    size = len(labels)
    given_shares = [data.draw(st.lists(shares, min_size=size, max_size=size)) for _ in range(2)]
    assert len(parsed(charts.category_bars(labels, *given_shares, "t")).findall("text")) == 2 * size


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40))
def test_a_line_chart_accepts_any_values(pairs: list[tuple[float, float]]) -> None:
    points = [Point(x, y, y - 1, y + 1, alarm=x > 0) for x, y in sorted(pairs)]
    drawing = charts.line_chart(points, "t", reference=0.5)
    assert "nan" not in drawing
    assert len(parsed(drawing).findall(".//*[@class='whisker']")) == len(points)


@given(st.lists(st.floats(0, 1e9), max_size=90))
def test_a_sparkline_accepts_no_values(values: list[float]) -> None:
    assert parsed(charts.sparkline(values, "t")).find("polyline") is not None


def test_mismatched_bins_draw_nothing() -> None:
    assert charts.histograms([0, 1], [0.5, 0.5], [1], "t") == ""
    assert charts.line_chart([], "t") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.98104, "0.9810"), (1.0, "1"), (12345, "12\u202f345"), (3.14159, "3.142"),
        (1e-7, "1e-07"), (0.001953125, "0.00195"), (123.456, "123.5"), (True, "True"),
        ("word", "word"),
    ],
)  # fmt: skip
def test_numbers_are_formatted(value: object, text: str) -> None:
    assert render.number(value) == text


@given(finite)
def test_a_formatted_number_is_close_to_the_value(value: float) -> None:
    read = float(render.number(value).replace("\u202f", ""))
    assert read == pytest.approx(value, rel=6e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7e-6, "7 µs"), (0.0012, "1.2 ms"), (0.25, "250 ms"), (4, "4.0 s"), (120, "2 min"),
     (7200, "2.0 h"), (None, "–")],
)  # fmt: skip
def test_durations_have_a_suitable_unit(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


def test_shares_and_differences_are_formatted() -> None:
    assert [render.share(x) for x in (0, 0.001, 0.054, 0.5, 1)] == [
        "0%", "0.1%", "5.4%", "50%", "100%",
    ]  # fmt: skip
    assert render.gain(0.02) == "+0.0200"
    assert render.gain(-0.02) == "−0.0200"


def test_values_are_escaped_in_templates() -> None:
    template = render.environment().from_string("{{ x }}{{ x | tojson }}")
    assert "<script>" not in template.render(x="<script>alert(1)</script>")
