"""The share of a model's traffic that its challenger receives: `traffic.json` on the shelf.

    write_traffic(shelf, {"churn": TrafficRule("canary", share=0.1)})
    read_traffic(shelf)["churn"].mode

The control plane writes it; each process of the data plane applies a change when it next polls the
shelf. Which version is the challenger is part of the shelf's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tidemill.errors import BundleError
from tidemill.serving.shelf.shelf import FileWatch, replace_file
from tidemill.state_files import decode_state

FORMAT = 1
TRAFFIC = "traffic.json"

Mode = Literal["off", "shadow", "canary"]
Sticky = Literal["key", "header", "none"]


class TrafficRule(msgspec.Struct, frozen=True):
    """The traffic of a model's challenger.

    Attributes:
        mode: `shadow`: it answers a copy of the request, for the journal alone. `canary`: it
            answers clients instead of the champion. `off`: neither.
        share: The share of requests that it receives, from 0 to 1.
        sticky: What assigns a request to a canary: `key`, the client's API key (its address
            without one); `header`, the header `X-Request-Key` (the key without one); `none`,
            chance. The same key always gets the same version while the share is unchanged, and a
            larger share keeps the clients that it had.
    """

    mode: Mode = "off"
    share: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    sticky: Sticky = "key"


OFF = TrafficRule()


class _TrafficFile(msgspec.Struct, frozen=True):
    models: dict[str, TrafficRule] = {}
    format: int = FORMAT


def read_traffic(shelf: Path) -> dict[str, TrafficRule]:
    """The rules by model name; empty if none have been written.

    Raises:
        BundleError: The file cannot be read, or contains an invalid rule.
    """
    path = shelf / TRAFFIC
    try:
        content = decode_state(path.read_bytes(), _TrafficFile, ("models",))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if content.format != FORMAT:
        raise BundleError(
            f"{path} has format {content.format}; this version of Tidemill reads format {FORMAT}."
        )
    return content.models


def write_traffic(shelf: Path, rules: Mapping[str, TrafficRule]) -> None:
    """Replace the rules of all models atomically.

    Raises:
        BundleError: A rule is invalid; nothing was written.
    """
    data = msgspec.json.encode(_TrafficFile(dict(rules)))
    try:
        msgspec.json.decode(data, type=_TrafficFile)
    except msgspec.ValidationError as error:
        raise BundleError(f"Invalid traffic rules: {error}.") from error
    replace_file(shelf / TRAFFIC, msgspec.json.format(data, indent=2))


def traffic_watch(shelf: Path) -> FileWatch[dict[str, TrafficRule]]:
    """Watch the rules; they are read again only if their file was replaced."""
    return FileWatch(shelf / TRAFFIC, lambda: read_traffic(shelf))
