"""Compare the output of a program with the output that a page shows."""

from __future__ import annotations

import re

NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
#: Values in a shown line that match any value of their kind, with their patterns.
KINDS = {
    "any": (r"\.\.\.", ".*"),
    "place": (r"/home/you\S*", r"\S+"),
    "time": (r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d\S*)?", r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d\S*)?"),
    "id": (r"\b(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,}\b", "[0-9a-f]+"),
    "rule": ("─+", "[─-]+"),
    "space": (r"\s+", r"\s+"),
    "number": (NUMBER, f"({NUMBER})"),
}
TOKEN = re.compile("|".join(f"(?P<{kind}>{shown})" for kind, (shown, _) in KINDS.items()))
#: Tolerance for numbers with a decimal point: processors round differently.
ABSOLUTE, RELATIVE = 0.02, 0.05


def missing(shown: list[str], output: str, *, numbers: bool = True) -> str | None:
    """Return the first shown line that is missing from the output, in order; None if none is.

    Args:
        shown: Lines of the page. `...` matches anything, also within a line; ids, times and paths
            below /home/you match any others.
        numbers: Whether numbers must match, with a tolerance for those with a decimal point.
    """
    left = [line for line in output.splitlines() if line.strip()]
    for line in shown:
        if not line.strip() or line.strip() == "...":
            continue
        pattern, values = _pattern(line.strip())
        while left:
            match = pattern.fullmatch(left.pop(0).strip())
            if match and (not numbers or _near(values, list(match.groups()))):
                break
        else:
            return line
    return None


def _pattern(line: str) -> tuple[re.Pattern[str], list[str]]:
    parts, values, end = [], [], 0
    for token in TOKEN.finditer(line):
        parts.append(re.escape(line[end : token.start()]))
        kind = token.lastgroup or ""
        if kind == "number":
            values.append(token[0])
        parts.append(KINDS[kind][1])
        end = token.end()
    return re.compile("".join(parts) + re.escape(line[end:])), values


def _near(shown: list[str], output: list[str]) -> bool:
    return all(_same(a, b) for a, b in zip(shown, output, strict=True))


def _same(shown: str, output: str) -> bool:
    a, b = float(shown.replace(",", "")), float(output.replace(",", ""))
    exact = "." not in shown
    return a == b if exact else abs(a - b) <= max(ABSOLUTE, RELATIVE * abs(a))
