"""Which models a serving machine should have on its shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.stores.mlflow.versions import ModelReference, parse_reference


@dataclass(frozen=True)
class ModelSelection:
    """What should be served.

    Attributes:
        references: Versions by name, number, alias or stage.
        tags: (key, value) pairs; registered models with one of these tags.
        every: All registered models.
        default: The model that answers requests without a name; None keeps the present one.
        stage: The stage or alias that a plain name means, as in `MODEL_STAGE`; None for champion.
    """

    references: tuple[ModelReference, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    every: bool = False
    default: str | None = None
    stage: str | None = None


def parse_selection(words: Sequence[str]) -> ModelSelection:
    """Parse command-line arguments: model references, `tag:KEY=VALUE` or `all`; none means all.

    Raises:
        NotFoundError: An argument is not a valid model reference.
    """
    if not words or "all" in words:
        return ModelSelection(every=True)
    tags = [word.removeprefix("tag:").partition("=") for word in words if word.startswith("tag:")]
    names = [parse_reference(word) for word in words if not word.startswith("tag:")]
    return ModelSelection(tuple(names), tuple((key, value) for key, _, value in tags))
