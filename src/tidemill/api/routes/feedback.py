"""Receive labels, and list predictions with their labels."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel

from tidemill.api.dependencies import Admin, PlatformDep, Predictor, state_of
from tidemill.api.schemas import Filter, Listing, PageQuery, PathText, Since, Until, with_datetimes
from tidemill.errors import ConflictError, InputError, NotFoundError, RequestError
from tidemill.stores.predictions.feedback import LabelResult, NewLabel
from tidemill.stores.predictions.label_joins import CONFLICT, REFUSED

router = APIRouter(tags=["feedback"])
MAX_LABELS = 10_000


_LABEL = {
    "type": "object",
    "required": ["id", "actual"],
    "additionalProperties": False,
    "properties": {
        "id": {
            "type": "string",
            "maxLength": 64,
            "description": "The `id` in the prediction's response.",
        },
        "actual": {
            "type": ["string", "number", "boolean"],
            "description": "The true value: one of the model's labels, or a number.",
        },
        "replace": {
            "type": "boolean",
            "default": False,
            "description": "Replace an earlier label.",
        },
    },
}
_SCHEMA = {
    "oneOf": [_LABEL, {"type": "array", "minItems": 1, "maxItems": MAX_LABELS, "items": _LABEL}]
}
_EXAMPLE = {"id": "1a1fc35d797aec746b871016b4", "actual": "benign"}
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}},
}


class FeedbackQuery(PageQuery):
    """Filters of labels."""

    model: Filter = None
    outcome: Filter = None
    prediction_id: Filter = None
    since: Since = None
    until: Until = None


class PredictionQuery(PageQuery):
    """Filters of predictions."""

    model: Filter = None
    version: Filter = None
    role: Filter = None
    labelled: bool = False
    since: Since = None
    until: Until = None


class LabelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One label of the request."""

    id: str
    actual: str | int | float | bool
    replace: bool = False


class LabelOutcome(BaseModel):
    """The outcome of one label."""

    id: str
    outcome: str
    reason: str | None = None


class FeedbackOutcomes(BaseModel):
    """The outcomes of all labels: their counts, and one item per label in the request's order."""

    received: int
    outcomes: dict[str, int]
    items: list[LabelOutcome]


@router.post("/feedback", openapi_extra={"requestBody": _BODY})
def send_feedback(
    request: Request, caller: Predictor, platform: PlatformDep, body: Annotated[Any, Body()]
) -> FeedbackOutcomes:
    """Send the true labels of predictions: one label, or a list of up to 10,000.

    A label whose prediction is not stored yet waits for it. A single label that is refused (422) or
    contradicts an earlier one (409) is an error; in a list, every label has its own outcome.
    """
    labels = _parse_labels(body if isinstance(body, list) else [body])
    results = platform.feedback.add(labels, key_id=caller.key_id)
    counts = Counter(result.outcome for result in results)
    state_of(request).metrics.count_labels(counts)
    if not isinstance(body, list):
        _raise_refusal(results[0])
    return FeedbackOutcomes(
        received=len(results),
        outcomes=dict(counts),
        items=[LabelOutcome(id=r.id, outcome=r.outcome, reason=r.reason) for r in results],
    )


@router.get("/feedback")
def list_feedback(
    _: Admin, platform: PlatformDep, query: Annotated[FeedbackQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List received labels with their outcomes, newest first."""
    page = platform.feedback.page(**query.filters())
    items = [with_datetimes(row, "time", "joined") for row in page.items]
    return Listing(items=items, next=page.next)


@router.get("/predictions")
def list_predictions(
    _: Admin, platform: PlatformDep, query: Annotated[PredictionQuery, Query()]
) -> Listing[dict[str, Any]]:
    """List stored predictions with their inputs and labels, newest first."""
    page = platform.predictions.page(**query.filters())
    items = [with_datetimes(row, "time", "joined") for row in page.items]
    return Listing(items=items, next=page.next)


@router.get("/predictions/{id}")
def get_prediction(id: PathText, _: Admin, platform: PlatformDep) -> list[dict[str, Any]]:
    """Get the predictions with one id: the champion's, and that of a shadow challenger."""
    found = platform.predictions.get(id)
    if not found:
        raise NotFoundError(
            f"There is no stored prediction '{id[:80]}'.",
            remedy="Ingest stores new predictions within seconds. It may not have been recorded.",
        )
    return [with_datetimes(row, "time", "joined") for row in found]


def _parse_labels(body: list[Any]) -> list[NewLabel]:
    if not 0 < len(body) <= MAX_LABELS:
        raise RequestError(
            f"The request has {len(body)} labels.",
            field="body",
            expected=f"between 1 and {MAX_LABELS} labels",
        )
    labels = []
    for index, item in enumerate(body):
        try:
            label = msgspec.convert(item, LabelRequest)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `$")
            field = f"{index}{path.rstrip('`')}"
            raise RequestError(
                f"Label {index}: {what}.",
                field=field,
                expected='{"id": "...", "actual": a label or a number}',
            ) from error
        labels.append(NewLabel(label.id, label.actual, label.replace))
    return labels


def _raise_refusal(result: LabelResult) -> None:
    if result.outcome == CONFLICT:
        raise ConflictError(
            result.reason or "", field="actual", remedy='Send "replace": true to correct it.'
        )
    if result.outcome == REFUSED:
        raise InputError(result.reason or "", field="actual")
