"""Plot false alarms (left) and power (right)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = {
    "Tidemill": "#0072B2",
    "KS per feature, 5%": "#D55E00",
    "KS + Benjamini-Hochberg, 1%": "#009E73",
    "PSI > 0.2": "#CC79A7",
    "Evidently preset, any column": "#E69F00",
    "Evidently preset, half of columns": "#56B4E9",
}
SHORT = {
    "breast_cancer": "breast cancer",
    "california_housing": "California",
}
INK, FAINT = "#222222", "#B8B8B8"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the plot as a PNG file, without panels for missing results."""
    powers = [results[key] for key in results if key.startswith("power: ten")]
    figure = Figure(figsize=(max(7.0, 4.6 * (1 + len(powers))), 4.6), layout="constrained")
    panels = figure.subplots(1, 1 + len(powers), squeeze=False)[0]
    if "alarms" in results:
        _alarms(panels[0], results["alarms"])
    for panel, power in zip(panels[1:], powers, strict=False):
        _power(panel, power)
    handles = [Line2D([], [], color=colour, lw=2) for colour in COLOURS.values()]
    figure.legend(
        handles, list(COLOURS), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=130, facecolor="white")


def _alarms(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for position, row in enumerate(rows):
        shares = row["alarms"]
        for step, (name, share) in enumerate(shares.items()):
            y = position + (step - (len(shares) - 1) / 2) * 0.13
            axes.plot([share["low"] * 100, share["high"] * 100], [y, y], color=COLOURS[name], lw=2)
            axes.plot(share["rate"] * 100, y, "o", color=COLOURS[name], ms=4)
    axes.axvline(1, color=INK, lw=0.8, ls="--")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.1, 110)
    axes.set_xticks([0, 0.5, 1, 3, 10, 30, 100], ["0", "0.5", "1", "3", "10", "30", "100%"])
    names = [SHORT.get(row["table"], row["table"]) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    _style(axes, "Clean windows that alarm")
    axes.set_xlabel("share of windows, with 95% bounds", fontsize=9)


def _power(axes: Axes, row: dict[str, Any]) -> None:
    for name, shares in row["alarms"].items():
        rates = [100 * share["rate"] for share in shares]
        bold = name == "Tidemill"
        axes.plot(row["shifts"], rates, "o-", color=COLOURS[name], ms=3.5, lw=2.4 if bold else 1.3,
                  label=name, zorder=3 if bold else 2)  # fmt: skip
    axes.axvline(0.25, color=INK, lw=0.8, ls="--")
    axes.axhline(95, color=INK, lw=0.8, ls=":")
    axes.set_ylim(-2, 102)
    axes.set_xlabel("shift of one feature, in standard deviations", fontsize=9)
    _style(axes, f"Windows of {row['rows']} rows that alarm, %\n{row['population']}")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(color=FAINT, lw=0.4, alpha=0.6)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
