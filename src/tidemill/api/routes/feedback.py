"""Labels in, and predictions with their labels out."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel

from tidemill.api.access import Admin, Predictor
from tidemill.api.schemas import (
    Cursor,
    Filter,
    Limit,
    Listing,
    Since,
    Until,
    to_epoch,
    with_datetimes,
)
from tidemill.api.state import platform_of, state_of
from tidemill.errors import ConflictError, InputError, NotFoundError, RequestError
from tidemill.platform import Platform
from tidemill.stores.predictions.feedback import CONFLICT, REFUSED, LabelResult, NewLabel

router = APIRouter(tags=["feedback"])
MOST = 10_000

ThePlatform = Annotated[Platform, Depends(platform_of)]

_LABEL = {
    "type": "object",
    "required": ["id", "actual"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "maxLength": 64, "description": "The `id` of an answer."},
        "actual": {
            "type": ["string", "number", "boolean"],
            "description": "What turned out to be true: a label of the model, or a number.",
        },
        "replace": {
            "type": "boolean",
            "default": False,
            "description": "Correct a label that was given before.",
        },
    },
}
_SCHEMA = {"oneOf": [_LABEL, {"type": "array", "minItems": 1, "maxItems": MOST, "items": _LABEL}]}
_EXAMPLE = {"id": "1a1fc35d797aec746b871016b4", "actual": "benign"}
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}},
}


class LabelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One label of the request."""

    id: str
    actual: str | int | float | bool
    replace: bool = False


class LabelOutcome(BaseModel):
    """What came of one label."""

    id: str
    outcome: str
    reason: str | None = None


class FeedbackOutcomes(BaseModel):
    """What came of all of them: counts by outcome, and each in the order of the request."""

    received: int
    outcomes: dict[str, int]
    items: list[LabelOutcome]


@router.post("/feedback", openapi_extra={"requestBody": _BODY})
def give_feedback(
    request: Request, caller: Predictor, platform: ThePlatform, body: Annotated[Any, Body()]
) -> FeedbackOutcomes:
    """Say what turned out to be true of predictions: one label, or a list of up to 10,000.

    A label whose prediction is not stored yet waits for it. A single label that is refused (422) or
    contradicts an earlier one (409) is an error; in a list each has its outcome.
    """
    labels = _read(body if isinstance(body, list) else [body])
    judged = platform.feedback.add(labels, key_id=caller.key_id)
    counts = Counter(each.outcome for each in judged)
    state_of(request).metrics.count_labels(counts)
    if not isinstance(body, list):
        _refuse(judged[0])
    return FeedbackOutcomes(
        received=len(judged),
        outcomes=dict(counts),
        items=[LabelOutcome(id=j.id, outcome=j.outcome, reason=j.reason) for j in judged],
    )


@router.get("/feedback")
def list_feedback(
    _: Admin,
    platform: ThePlatform,
    model: Filter = None,
    outcome: Filter = None,
    prediction_id: Filter = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[dict[str, Any]]:
    """Labels that arrived and what came of them, newest first."""
    page = platform.feedback.page(
        model=model,
        outcome=outcome,
        prediction_id=prediction_id,
        since=to_epoch(since),
        until=to_epoch(until),
        limit=limit,
        cursor=cursor,
    )
    return Listing(
        items=[with_datetimes(row, "time", "joined") for row in page.items], next=page.next
    )


@router.get("/predictions")
def list_predictions(
    _: Admin,
    platform: ThePlatform,
    model: Filter = None,
    version: Filter = None,
    role: Filter = None,
    labelled: bool = False,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[dict[str, Any]]:
    """Predictions that ingest has stored, with inputs and labels, newest first."""
    page = platform.predictions.page(
        model=model,
        version=version,
        role=role,
        labelled=labelled,
        since=to_epoch(since),
        until=to_epoch(until),
        limit=limit,
        cursor=cursor,
    )
    return Listing(
        items=[with_datetimes(row, "time", "joined") for row in page.items], next=page.next
    )


@router.get("/predictions/{id}")
def get_prediction(id: str, _: Admin, platform: ThePlatform) -> list[dict[str, Any]]:
    """What was answered under one id: by the champion, and by a challenger that shadowed it."""
    found = platform.predictions.get(id)
    if not found:
        raise NotFoundError(
            f"No prediction '{id[:80]}' is stored.",
            remedy="Ingest stores new ones within seconds; it may not have been recorded at all.",
        )
    return [with_datetimes(row, "time", "joined") for row in found]


def _read(body: list[Any]) -> list[NewLabel]:
    if not 0 < len(body) <= MOST:
        raise RequestError(
            f"{len(body)} labels.", field="body", expected=f"between 1 and {MOST} labels"
        )
    labels = []
    for place, each in enumerate(body):
        try:
            held = msgspec.convert(each, LabelRequest)
        except msgspec.ValidationError as error:
            what, _, path = str(error).partition(" - at `$")
            field = f"{place}{path.rstrip('`')}"
            raise RequestError(
                f"Label {place}: {what}.",
                field=field,
                expected='{"id": "...", "actual": a label or a number}',
            ) from error
        labels.append(NewLabel(held.id, held.actual, held.replace))
    return labels


def _refuse(judged: LabelResult) -> None:
    if judged.outcome == CONFLICT:
        raise ConflictError(
            judged.reason or "", field="actual", remedy='Send "replace": true to correct it.'
        )
    if judged.outcome == REFUSED:
        raise InputError(judged.reason or "", field="actual")
