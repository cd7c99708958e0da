"""The command line: every command with its arguments, options, defaults and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .tables import table

DEFAULT = re.compile(r"\s*\[default: (.*?)\]|\s*\[(all)\]")


def page() -> str:
    """Render every command in the order and under the headings of `tidemill --help`."""
    from tidemill.cli.app import command_tree

    root = command_tree()
    lines = ["# Command line", "", _plain(root.help or ""), ""]
    lines += [*_plain(root.epilog or "").splitlines(), ""]
    lines += [
        "Every command has `--help` (`-h`). `tidemill --install-completion` sets up completion"
    ]
    lines += ["for the current shell.", ""]
    panel = None
    for path, command in _walk(root, "tidemill"):
        if command.rich_help_panel and command.rich_help_panel != panel:
            panel = command.rich_help_panel
            lines += [f"## {panel}", ""]
        lines += _command(path, command)
    return "\n".join(lines)


def _walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    panels: dict[str | None, list[Any]] = {}
    for command in group.commands.values():
        panels.setdefault(command.rich_help_panel, []).append(command)
    for commands in panels.values():
        for command in commands:
            if command.hidden:
                continue
            yield f"{path} {command.name}", command
            if hasattr(command, "commands"):
                yield from _walk(command, f"{path} {command.name}")


def _command(path: str, command: Any) -> list[str]:
    words, _, examples = (command.help or "").partition("Examples:")
    lines = [f"### {path}", "", *_plain(words).strip().splitlines(), ""]
    rows = [_row(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    if rows:
        lines += table(["argument or option", "default", "description"], rows)
    shown = [line.strip() for line in examples.splitlines() if line.strip()]
    if shown:
        lines += [
            "<!-- test: parse an example, run where a page uses it -->",
            "```bash",
            *shown,
            "```",
            "",
        ]
    return [*lines, _plain(command.epilog or ""), ""]


def _row(parameter: Any) -> list[str]:
    help_text = getattr(parameter, "help", None) or ""
    match = DEFAULT.search(help_text)
    default = next(filter(None, match.groups())) if match else _default(parameter)
    return [_shown(parameter), f"`{default}`" if default else "", DEFAULT.sub("", help_text)]


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.name.upper()
        return f"`{name}`" if parameter.required else f"`[{name}]`"
    names = [*parameter.opts, *parameter.secondary_opts]
    repeat = " (repeated)" if parameter.multiple else ""
    return ", ".join(f"`{name}`" for name in names) + repeat


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value in (False, "", [], ()) or callable(value):
        return ""
    if value is True:
        return str(parameter.opts[0])
    return str(getattr(value, "value", value))


def _plain(text: str) -> str:
    return re.sub(r"\[/?(bold|dim|red|green|yellow|cyan|italic)[^\]]*\]|\[/\]", "", text)
