"""The bundle format, generated from the structs that read and write it."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from .tables import table


def page() -> str:
    """Render the files of a bundle, every struct with its fields, and an example manifest."""
    from tidemill import bundle, signature

    structs = {
        "manifest.json": [
            bundle.Manifest,
            bundle.FileEntry,
            bundle.ModelInput,
            bundle.ModelOutputs,
            bundle.Parity,
        ],
        "signature.json": [signature.Signature, signature.Column, signature.Tensor],
        "example.json": [bundle.Example, bundle.RowPrediction],
    }
    title, _, rest = (inspect.getdoc(bundle) or "").partition("\n\n")
    lines = ["# Bundle format", "", *title.splitlines(), "", f"Format {bundle.FORMAT}.", ""]
    files, _, more = _dedented(rest).partition("\n\n")
    lines += ["```text", *files.splitlines(), "```", "", *more.splitlines(), ""]
    for name, kinds in structs.items():
        lines += [f"## {name}", ""]
        for kind in kinds:
            lines += _struct(kind)
    return "\n".join(lines)


def _dedented(text: str) -> str:
    return re.sub(r"^ {4}", "", text, flags=re.MULTILINE)


def _struct(kind: Any) -> list[str]:
    import msgspec

    notes = _comments(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        hint = _words(kind.__annotations__[field.name])
        default = "required" if field.required else f"`{_default(field)}`"
        rows.append([f"`{field.name}`", f"`{hint}`", default, notes.get(field.name, "")])
    doc = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    return [
        *(f"### {kind.__name__}", "", *doc.splitlines(), *[""] * bool(doc)),
        *table(["field", "type", "default", ""], rows),
    ]


def _words(hint: str) -> str:
    """Return a type with its aliases expanded."""
    from tidemill.signature import Kind

    kinds = " | ".join(repr(kind) for kind in get_args(Kind))
    label = "str | int | float | bool"
    hint = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace(", ", " | "), hint)
    names = {"Kind": kinds, "Label": label, "Value": f"{label} | None"}
    return re.sub(r"\b(Kind|Label|Value)\b", lambda match: names[match[0]], hint)


def _default(field: Any) -> Any:
    import msgspec

    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory()


def _comments(kind: Any) -> dict[str, str]:
    """Return the trailing source comment of each field."""
    found = re.findall(r"^\s+(\w+): [^#\n]*#\s*(.+)$", inspect.getsource(kind), re.MULTILINE)
    return {name: words[0].upper() + words[1:] + "." for name, words in found}
