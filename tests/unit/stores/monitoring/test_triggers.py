"""Triggers: one for a cause, one retraining at a time, and a notice of each, signed and retried."""

from __future__ import annotations

import hashlib
import hmac
import threading
from typing import Any

import httpx
import pytest

from tidemill.errors import ConflictError, NotFoundError
from tidemill.stores.database.database import Database
from tidemill.stores.database.schema import migrate
from tidemill.stores.database.tables import notices
from tidemill.stores.monitoring.triggers import NewTrigger, Triggers
from tidemill.stores.monitoring.webhook_outbox import WebhookSender, WebhookTarget, pause_after


@pytest.fixture
def store(database: Database) -> Triggers:
    migrate(database)
    return Triggers(database)


def decay(key: str | None = "decay:3:1", **more: Any) -> NewTrigger:
    return NewTrigger("churn", "decay", "accuracy fell", "3", key, **more)


def drift(**more: Any) -> NewTrigger:
    return NewTrigger("churn", "drift", "moved", "3", "drift:3:1", retrains=False, **more)


def test_trigger_is_read_as_written(store: Triggers) -> None:
    opened = store.open(decay(evidence={"loss": float("nan"), "rows": 5}))
    assert store.get(opened.id) == opened
    assert (opened.state, opened.evidence) == ("open", {"loss": None, "rows": 5})
    assert opened.time > 1e9
    with pytest.raises(NotFoundError):
        store.get("nothing")


def test_cause_opens_one_trigger(store: Triggers) -> None:
    first = store.open(decay())
    with pytest.raises(ConflictError, match=first.id):
        store.open(decay())
    store.close(first.id, "kept champion")
    with pytest.raises(ConflictError, match="has had a trigger for this cause"):
        store.open(decay())
    assert store.open(decay("decay:3:2")).state == "open"


def test_model_has_one_retraining_at_a_time(store: Triggers) -> None:
    first = store.open(decay())
    with pytest.raises(ConflictError, match=f"{first.id} .*decay.* is open"):
        store.open(NewTrigger("churn", "manual", "I want it"))
    assert store.open(drift()).state == "open"
    assert store.open(NewTrigger("wine", "manual", "another model")).state == "open"


def test_concurrent_processes_open_one_trigger(store: Triggers) -> None:
    outcomes: list[bool] = []

    def run(number: int) -> None:
        try:
            store.open(decay(f"decay:3:{number}"))
            outcomes.append(True)
        except ConflictError:
            outcomes.append(False)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 5 + [True]


def test_closed_trigger_does_not_change_and_evidence_grows(store: Triggers) -> None:
    opened = store.open(decay(evidence={"loss": 0.1}))
    started = store.start(opened.id, "job1")
    assert (started.state, started.job_id) == ("retraining", "job1")
    closed = store.close(opened.id, "promoted", {"version": "4"})
    assert (closed.state, closed.evidence) == ("promoted", {"loss": 0.1, "version": "4"})
    assert store.close(opened.id, "failed", {"late": True}) == closed
    assert store.opened("churn") == []
    assert store.start(opened.id, "job2") == closed


def test_pages_and_counts(store: Triggers) -> None:
    kept = store.open(decay())
    told = store.open(drift())
    store.close(kept.id, "kept champion")
    assert {t.id for t in store.page(model="churn").items} == {kept.id, told.id}
    assert [t.id for t in store.page(state="kept champion").items] == [kept.id]
    assert store.page(model="churn", cause="labels").items == []
    assert sorted(store.counts()) == [("churn", "decay", 1), ("churn", "drift", 1)]
    newest = store.newest("churn")
    assert newest is not None
    assert newest.id == kept.id


class Receiver:
    """A webhook that fails as often as it is told to, and keeps what it was sent."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        code = self.answers.pop(0) if self.answers else 200
        if code == 0:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(code)

    def courier(self, store: Triggers) -> WebhookSender:
        target = WebhookTarget("http://hook.test/in", "s3cret")
        return WebhookSender(store._database, target, transport=httpx.MockTransport(self))


def make_due(store: Triggers) -> None:
    with store._database.write() as connection:
        connection.execute(notices.update().values(not_before=0.0))


def test_event_is_signed_over_time_and_body(store: Triggers) -> None:
    opened = store.open(decay())
    receiver = Receiver()
    assert receiver.courier(store).deliver() == 1
    (request,) = receiver.requests
    moment, _, digest = request.headers["X-Tidemill-Signature"].partition(",")
    signed = f"{moment.removeprefix('t=')}.".encode() + request.content
    expected = hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
    assert digest == f"v1={expected}"
    assert request.headers["X-Tidemill-Event"] == "trigger.opened"
    assert opened.id.encode() in request.content


def test_undelivered_event_is_retried_up_to_a_limit(store: Triggers) -> None:
    store.open(decay())
    receiver = Receiver(0, 500, 302, 200)
    courier = receiver.courier(store)
    for delivered in (0, 0, 0, 1, 0):
        assert courier.deliver() == delivered
        assert courier.deliver() == 0, "it is not due yet, or done"
        make_due(store)
    assert len(receiver.requests) == 4
    deliveries = {request.headers["X-Tidemill-Delivery"] for request in receiver.requests}
    assert len(deliveries) == 1


def test_closing_is_sent_and_old_events_are_not(store: Triggers) -> None:
    opened = store.open(decay())
    store.close(opened.id, "promoted")
    with store._database.write() as connection:
        old = notices.update().where(notices.c.event == "trigger.opened").values(time=1.0)
        connection.execute(old)
    receiver = Receiver()
    assert receiver.courier(store).deliver() == 1
    assert receiver.requests[0].headers["X-Tidemill-Event"] == "trigger.closed"


def test_pauses_grow_to_an_hour() -> None:
    pauses = [pause_after(attempts) for attempts in range(1, 70)]
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 3600.0
