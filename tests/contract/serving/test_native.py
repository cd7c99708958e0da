"""The native protocol over HTTP: each form of a request, each refusal, what an answer says."""

from __future__ import annotations


def test_one(served):
    got = served.ask("/predict", {"features": [10.0] * 6})
    assert got.status == 200
    print(got)
