"""What a serving machine should have on its shelf, as people write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.stores.mlflow.versions import ModelReference, parse_reference


@dataclass(frozen=True)
class ModelSelection:
    """What should be served.

    `every` takes all registered models, `tags` those that carry one of these (key, value);
    `references` are versions by name, number, alias or stage.
    """

    references: tuple[ModelReference, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    every: bool = False


def parse_selection(words: Sequence[str]) -> ModelSelection:
    """What the words on the command line mean; none of them means all models.

    Raises:
        NotFoundError: A word means nothing.
    """
    if not words or "all" in words:
        return ModelSelection(every=True)
    tags = [word.removeprefix("tag:").partition("=") for word in words if word.startswith("tag:")]
    names = [parse_reference(word) for word in words if not word.startswith("tag:")]
    return ModelSelection(tuple(names), tuple((key, value) for key, _, value in tags))
