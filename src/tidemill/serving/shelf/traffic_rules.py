"""How much of a model's traffic its challenger sees: `traffic.json` in the shelf.

    write_traffic(shelf, {"churn": TrafficRule("canary", share=0.1)})
    read_traffic(shelf)["churn"].mode

The control plane writes it; every process of the data plane takes a change up at its next look at
the shelf. Which version is the challenger stands in the shelf's state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tidemill.errors import BundleError
from tidemill.serving.http.routes import Admission
from tidemill.serving.shelf.shelf import FileWatch, replace_file

FORMAT = 1
TRAFFIC = "traffic.json"
STICKY_HEADER = b"x-request-key"

Mode = Literal["off", "shadow", "canary"]
Sticky = Literal["key", "header", "none"]


class TrafficRule(msgspec.Struct, frozen=True):
    """What a model's challenger sees.

    Attributes:
        mode: `shadow`: it answers after the champion, and only the journal is told. `canary`: it
            answers callers in the champion's place. `off`: neither.
        share: The share of the requests that it sees, from 0 to 1.
        sticky: What decides over a canary's request: the caller's API key (or address, without
            one), the header `X-Request-Key` (without one, the key), or chance. The same key gets
            the same version for as long as the share stays, and a larger share keeps whom it had.
    """

    mode: Mode = "off"
    share: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    sticky: Sticky = "key"


OFF = TrafficRule()


class _File(msgspec.Struct, frozen=True):
    models: dict[str, TrafficRule] = {}
    format: int = FORMAT


def read_traffic(shelf: Path) -> dict[str, TrafficRule]:
    """The rules by model name; none when nothing was ever written.

    Raises:
        BundleError: The file cannot be read, or holds a mode or share that there is not.
    """
    path = shelf / TRAFFIC
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if found.format != FORMAT:
        raise BundleError(f"{path} has format {found.format}; this Tidemill reads {FORMAT}.")
    return found.models


def write_traffic(shelf: Path, rules: Mapping[str, TrafficRule]) -> None:
    """Replace the rules of all models, so that a reader sees the old or the new ones.

    Raises:
        BundleError: A share is not between 0 and 1; nothing was written.
    """
    data = msgspec.json.encode(_File(dict(rules)))
    try:
        msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        raise BundleError(f"These rules make no {TRAFFIC}: {error}") from error
    replace_file(shelf / TRAFFIC, msgspec.json.format(data, indent=2))


def traffic_watch(shelf: Path) -> FileWatch[dict[str, TrafficRule]]:
    """Reads the rules again only when their file was replaced."""
    return FileWatch(shelf / TRAFFIC, lambda: read_traffic(shelf))


def is_selected(rule: TrafficRule, admission: Admission) -> bool:
    """Whether a request belongs to the rule's share."""
    if rule.share >= 1.0:
        return True
    if rule.mode == "shadow" or rule.sticky == "none":
        return random.random() < rule.share
    return canary_bucket(_caller(rule, admission), admission.params.get("name", "")) < rule.share


def canary_bucket(caller: str, model: str) -> float:
    """A number from 0 to 1 that is always the same for a caller, and another for each model."""
    digest = hashlib.blake2b(f"{model}\0{caller}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _caller(rule: TrafficRule, admission: Admission) -> str:
    if rule.sticky == "header":
        given = admission.head.header(STICKY_HEADER)
        if given is not None:
            return given.decode("latin-1")
    return admission.key_id or admission.head.client
