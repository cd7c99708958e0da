"""Build self-contained HTML pages: no scripts, and nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ --ink: #222; --faint: #6b6b6b; --line: #ddd; --red: #d55e00; }}
  body {{ margin: 0 auto; max-width: 72rem; padding: 1.5rem; color: var(--ink);
         font: 16px/1.5 system-ui, sans-serif; background: #fff; }}
  h1 {{ font-size: 1.5rem; margin: 0 0 .5rem; }}
  h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-top: 1px solid var(--line);
       padding-top: 1rem; }}
  .faint {{ color: var(--faint); margin: 0 0 1rem; }}
  .verdict {{ border-left: .4rem solid var(--faint); padding: .3rem 1rem; margin: 1rem 0; }}
  .verdict.good {{ border-color: #009e73; }} .verdict.look {{ border-color: #e69f00; }}
  .verdict.act {{ border-color: var(--red); }}
  .verdict b {{ font-size: 1.2rem; }}
  img {{ max-width: 100%; height: auto; display: block; margin: .5rem 0; }}
  .wide {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; font-size: .9rem; width: 100%; }}
  th, td {{ text-align: left; padding: .35rem .7rem .35rem 0; vertical-align: top;
           border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }}
  th {{ color: var(--faint); font-weight: 600; }}
  tr.hot td:first-child {{ border-left: .3rem solid var(--red); padding-left: .5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


class HtmlReport:
    """A page that is filled from top to bottom; all texts are escaped."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Add a section heading."""
        self._parts.append(f"<h2>{_escape(text)}</h2>")

    def paragraph(self, text: str, *, faint: bool = False) -> None:
        """Add a paragraph."""
        kind = ' class="faint"' if faint else ""
        self._parts.append(f"<p{kind}>{_escape(text)}</p>")

    def verdict(self, title: str, texts: Iterable[str], colour: str = "plain") -> None:
        """Add the page's main statement; `colour` is good, look, act or plain."""
        inner = "".join(f"<p>{_escape(text)}</p>" for text in texts if text)
        self._parts.append(f'<div class="verdict {colour}"><b>{_escape(title)}</b>{inner}</div>')

    def definitions(self, items: Mapping[str, str]) -> None:
        """Add a list of terms with their explanations."""
        inner = "".join(f"<li><b>{_escape(k)}</b>: {_escape(v)}</li>" for k, v in items.items())
        self._parts.append(f"<ul>{inner}</ul>")

    def image(self, content: bytes, media_type: str, alt: str) -> None:
        """Add an image, such as of type image/png or image/svg+xml."""
        data = base64.b64encode(content).decode()
        self._parts.append(f'<img alt="{_escape(alt)}" src="data:{media_type};base64,{data}">')

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[str]], hot: Sequence[bool] = ()
    ) -> None:
        """Add a table; `hot` marks the rows to highlight."""
        heads = "".join(f"<th>{_escape(cell)}</th>" for cell in head)
        body = "".join(
            ('<tr class="hot">' if hot and hot[number] else "<tr>")
            + "".join(f"<td>{_escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for number, cells in enumerate(rows)
        )
        inner = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
        self._parts.append(f'<div class="wide"><table>{inner}</table></div>')

    def render(self) -> str:
        """Return the page."""
        return _PAGE.format(title=_escape(self._title), body="\n".join(self._parts))


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)
