"""The native protocol over HTTP: every request format, every error, and the responses."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.model.scorer import Scorer

from .conftest import FLOATS, LABELS, Answer, Start, Tidemill, make_shelf

ROW = [3.5, 1.0, -2.25, 0.0, 7.125, 2.0]
NAMED = dict(zip(FLOATS, ROW, strict=True))
HOUSE = {"area": 70.5, "side": "south", "rooms": 3, "garden": True}
PICTURE = [float(i % 5) / 4 for i in range(16)]
ONE_ID = {"id"}


def predict(served: Tidemill, model: str, body: Any) -> Answer:
    return served.ask(f"/models/{model}/predict", body)


def without_id(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return {key: value for key, value in answer.json().items() if key != "id"}


def test_a_classifier_answers_label_confidence_and_probabilities(served: Tidemill) -> None:
    got = served.ask("/predict", {"features": ROW})
    found = got.json()
    assert list(found) == ["prediction", "confidence", "probabilities", "model", "version", "id"]
    assert tuple(found["probabilities"]) == LABELS
    assert found["probabilities"][found["prediction"]] == found["confidence"]
    assert found["confidence"] == max(found["probabilities"].values())
    assert math.isclose(sum(found["probabilities"].values()), 1, rel_tol=1e-6)
    assert (found["model"], found["version"]) == ("classifier", "1")
    assert got.headers["x-request-id"] == found["id"]
    assert got.headers["content-type"] == "application/json"


def test_a_regressor_answers_a_number(served: Tidemill) -> None:
    found = predict(served, "regressor", {"features": HOUSE}).json()
    assert found["prediction"] == 70.5 + 3 + 1 + 200
    assert list(found) == ["prediction", "model", "version", "id"]


@pytest.mark.parametrize(
    "body",
    [
        {"features": ROW},
        {"features": NAMED},
        {"features": dict(reversed(NAMED.items()))},
        NAMED,
        {"features": {"features": ROW}},
        dict(reversed(NAMED.items())),
    ],
)
def test_every_format_of_a_row_gets_the_same_answer(served: Tidemill, body: Any) -> None:
    assert without_id(served.ask("/predict", body)) == without_id(
        served.ask("/predict", {"features": ROW})
    )


@pytest.mark.parametrize(
    "body",
    [
        {"image": PICTURE},
        {"features": PICTURE},
        {"image": [PICTURE[i : i + 4] for i in range(0, 16, 4)]},
        {"image": [[PICTURE[i : i + 4] for i in range(0, 16, 4)]]},
        {"features": [PICTURE[i : i + 4] for i in range(0, 16, 4)]},
    ],
)
def test_every_format_of_an_image_gets_the_same_answer(served: Tidemill, body: Any) -> None:
    flat = without_id(predict(served, "pictures", {"image": PICTURE}))
    assert flat["prediction"] in (0, 1, 2, 3)
    assert without_id(predict(served, "pictures", body)) == flat


@pytest.mark.parametrize(
    ("change", "price"),
    [
        ({}, 274.5),
        ({"rooms": None}, 271.5),
        ({"rooms": 3.0}, 274.5),
        ({"area": 70}, 274.0),
        ({"garden": False}, 273.5),
        ({"side": "north"}, 174.5),
        ({"area": -0.0}, 204.0),
        ({"area": 1e300}, 1e300),
    ],
)
def test_a_mixed_table_accepts_what_its_columns_accept(
    served: Tidemill, change: dict[str, Any], price: float
) -> None:
    house = {**HOUSE, **change}
    for body in (house, {"features": house}, {"features": list(house.values())}):
        assert predict(served, "regressor", body).json()["prediction"] == price


def test_each_row_of_a_batch_has_its_own_id(served: Tidemill) -> None:
    rows: list[Any] = [ROW, NAMED, {"features": ROW}, {"features": NAMED}, ROW[::-1]]
    got = served.ask("/predict_batch", {"instances": rows}).json()
    alone = served.ask("/predict", {"features": ROW}).json()
    assert [p["id"] for p in got["predictions"]] == [f"{got['id']}-{i}" for i in range(5)]
    for row in got["predictions"][:4]:
        assert row["probabilities"] == alone["probabilities"]
    assert got["predictions"][4]["probabilities"] != alone["probabilities"]
    assert (got["model"], got["version"]) == ("classifier", "1")


def test_a_batch_may_be_sent_to_predict(served: Tidemill) -> None:
    body = {"instances": [ROW, ROW]}
    found = [
        served.ask(path, body).json()["predictions"] for path in ("/predict", "/predict_batch")
    ]
    for row in (*found[0], *found[1]):
        del row["id"]
    assert found[0] == found[1]


def test_a_batch_of_one_has_the_id_of_its_request(served: Tidemill) -> None:
    got = served.ask("/predict_batch", {"instances": [ROW]}).json()
    assert got["predictions"][0]["id"] == got["id"]


def test_a_batch_may_be_larger_than_a_model_run(served: Tidemill) -> None:
    rows = [[float(i), *ROW[1:]] for i in range(1000)]
    got = served.ask("/predict_batch", {"instances": rows}).json()
    assert len(got["predictions"]) == 1000
    one = served.ask("/predict", {"features": rows[777]}).json()
    assert got["predictions"][777]["probabilities"] == one["probabilities"]


REFUSED = [
    ("classifier", {"features": ROW[:5]}, "features", "5 values, but the model takes 6"),
    ("classifier", {"features": [*ROW, 1.0]}, "features", "7 values"),
    ("classifier", {"features": [*ROW[:5], "x"]}, FLOATS[5], 'is "x"; expected a number'),
    ("classifier", {"features": [*ROW[:5], True]}, FLOATS[5], "is true; expected a number"),
    ("classifier", {"features": [*ROW[:5], None]}, FLOATS[5], "is missing"),
    ("classifier", {"features": [*ROW[:5], [1]]}, FLOATS[5], "is [1]"),
    ("classifier", {"features": [*ROW[:5], 1e39]}, FLOATS[5], "32-bit"),
    ("classifier", {"features": [*ROW[:5], -(10**300)]}, FLOATS[5], "32-bit"),
    ("classifier", {"features": "x"}, "features", "is a string"),
    ("classifier", {"features": None}, "features", "is null"),
    ("classifier", {"features": ROW, "more": 1}, "more", "in addition to 'features'"),
    ("classifier", {}, FLOATS[0], "Missing: 'mean measure 0'"),
    ("classifier", {k: NAMED[k] for k in FLOATS[:4]}, FLOATS[4], "Missing: 'mean measure 4', "),
    ("classifier", {**NAMED, "colour": 1}, "colour", "Unknown: 'colour'"),
    ("classifier", {"features": {**NAMED, "colour": 1}}, "colour", "Unknown: 'colour'"),
    ("classifier", {**NAMED, FLOATS[2]: "big"}, FLOATS[2], 'is "big"; expected a number'),
    ("classifier", {"instances": []}, "instances", "is empty"),
    ("classifier", {"instances": {}}, "instances", "is an object"),
    ("classifier", {"instances": 3}, "instances", "is a number"),
    ("classifier", {"instances": [3]}, None, "instances[0]: A row is a number"),
    ("classifier", {"instances": [ROW, ROW[:3]]}, "features", "instances[1]: 'features' has 3"),
    ("classifier", {"instances": [ROW, [*ROW[:5], "x"]]}, FLOATS[5], "instances[1]: features[5]"),
    ("classifier", {"instances": [ROW, [*ROW[:5], 1e39]]}, FLOATS[5], "32-bit"),
    ("classifier", {"instances": [ROW], "a": 1}, "a", "in addition to 'instances'"),
    ("classifier", {"instances": [[ROW]]}, "features", "has 1 values"),
    ("classifier", [ROW], None, "The body is a list"),
    ("classifier", "x", None, "The body is a string"),
    ("classifier", 3, None, "The body is a number"),
    ("classifier", None, None, "The body is null"),
    ("regressor", {**HOUSE, "side": "east"}, "side", "never saw in training"),
    ("regressor", {**HOUSE, "side": 1}, "side", "expected one of 'north', 'south'"),
    ("regressor", {**HOUSE, "side": None}, "side", "is missing"),
    ("regressor", {**HOUSE, "rooms": 2.5}, "rooms", "is 2.5; expected a whole number or null"),
    ("regressor", {**HOUSE, "rooms": "3"}, "rooms", 'is "3"'),
    ("regressor", {**HOUSE, "rooms": 2**63}, "rooms", "does not fit into 64 bits"),
    ("regressor", {**HOUSE, "rooms": 10**80}, "rooms", "does not fit into 64 bits"),
    ("regressor", {**HOUSE, "area": 10**320}, "area", "does not fit into 64 bits"),
    ("regressor", {**HOUSE, "garden": 1}, "garden", "expected true or false"),
    ("regressor", {**HOUSE, "garden": "yes"}, "garden", "expected true or false"),
    ("regressor", {"features": ["south", 70.5, 3, True]}, "area", "features[0], 'area' is"),
    ("regressor", {"features": [70.5, 3, "south", True]}, "side", "in the order 'area', 'side'"),
    ("pictures", {"image": PICTURE[:15]}, "image", "has the shape [15]"),
    ("pictures", {"image": [PICTURE]}, "image", "has the shape [1, 16]"),
    ("pictures", {"image": [[0.0] * 4, [0.0] * 4, [0.0] * 3, [0.0] * 5]}, "image", "[2]"),
    ("pictures", {"image": [*PICTURE[:15], "x"]}, "image", "'image[15]' is \"x\""),
    ("pictures", {"image": [*PICTURE[:15], None]}, "image", "'image[15]' is missing"),
    ("pictures", {"image": [*PICTURE[:15], True]}, "image", "'image[15]' is true"),
    ("pictures", {"image": [*PICTURE[:15], 1e39]}, "image", "32-bit"),
    ("pictures", {"image": [*PICTURE[:15], [1.0]]}, "image", "'image[15]' is a list"),
    ("pictures", {"image": []}, "image", "has the shape [0]"),
    ("pictures", {"image": 3}, "image", "'image' is a number"),
    ("pictures", {"picture": PICTURE}, "picture", "The row contains 'picture'"),
    ("pictures", {"image": PICTURE, "features": PICTURE}, "image", "alone"),
    ("pictures", {"instances": [{"image": PICTURE}, [1]]}, "image", "instances[1]: 'image'"),
    ("pictures", {}, "image", "The row contains nothing"),
]


@pytest.mark.parametrize(("model", "body", "field", "words"), REFUSED)
def test_invalid_values_are_refused_with_their_name(
    served: Tidemill, model: str, body: Any, field: str | None, words: str
) -> None:
    got = served.ask(f"/models/{model}/predict", json.dumps(body).encode())
    assert got.status == 422, got
    assert got.headers["content-type"] == "application/problem+json"
    problem = got.json()
    assert problem.get("field") == field
    told = " ".join(str(problem.get(k, "")) for k in ("detail", "expected", "remedy"))
    assert words in told
    assert problem["status"] == 422
    assert problem.get("expected"), "every refusal says what would do"


MALFORMED = [
    b"",
    b"   ",
    b"{",
    b'{"features": [1, 2}',
    b'{"features": [NaN]}',
    b'{"features": [Infinity]}',
    b'{"features": [-Infinity]}',
    b'{"features": [1e400]}',
    b'{"features": [1' + b"0" * 5000 + b"]}",
    b'{"features": [01]}',
    b'{"features": [1,]}',
    b"{'features': [1]}",
    b'{"features": [1]} x',
    b'\xef\xbb\xbf{"features": [1]}',
    b'{"features": "\xff\xfe"}',
    b'{"a": "\\ud800"}',
    b'{"a": "\x01"}',
    b"[" * 100_000,
    b'{"features":' * 50_000,
    b"\x00",
    b"features=1,2,3",
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("model", ["classifier", "pictures"])
def test_what_is_not_json_gets_400(served: Tidemill, model: str, body: bytes) -> None:
    got = served.ask(f"/models/{model}/predict", body)
    assert got.status == 400, got
    assert got.headers["content-type"] == "application/problem+json"
    assert got.json()["title"] == "Malformed request"


def test_the_last_of_two_values_for_a_name_counts(served: Tidemill) -> None:
    twice = msgspec.json.encode(NAMED)[:-1] + b', "mean measure 0": 9.0}'
    last = served.ask("/predict", {**NAMED, FLOATS[0]: 9.0})
    assert without_id(served.ask("/predict", twice)) == without_id(last)
    house = b'{"area":1,"side":"north","rooms":1,"garden":false,"area":2}'
    assert predict(served, "regressor", house).json()["prediction"] == 103.0


def test_values_that_are_not_finite_are_refused(served: Tidemill) -> None:
    weights = np.random.default_rng(0).normal(0, 0.3, (6, 3))
    huge = [float(3e38 * np.sign(w)) for w in weights[:, np.abs(weights).sum(axis=0).argmax()]]
    got = served.ask("/predict", {"features": huge})
    assert got.status == 422
    assert "no finite answer" in got.json()["detail"]
    mixed = served.ask("/predict_batch", {"instances": [ROW, huge]})
    assert mixed.status == 422
    assert "instances[1]" in mixed.json()["detail"]


def test_the_batch_route_accepts_only_batches(served: Tidemill) -> None:
    got = served.ask("/predict_batch", {"features": ROW})
    assert (got.status, got.json()["field"]) == (422, "instances")


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"Content-Type": "text/csv"}, 415, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, None),
        ({"Content-Type": "Application/JSON"}, 200, None),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"Content-Encoding": "identity"}, 200, None),
    ],
)
def test_unsupported_content_types_get_415(
    served: Tidemill, headers: dict[str, str], status: int, field: str | None
) -> None:
    got = served.ask("/predict", {"features": ROW}, headers=headers)
    assert got.status == status
    assert got.json().get("field") == field


def test_unknown_models_and_paths_get_404(served: Tidemill) -> None:
    got = predict(served, "nobody", {"features": ROW})
    assert got.status == 404
    assert "'classifier', 'pictures', 'regressor'" in got.json()["expected"]
    assert served.ask("/nowhere").status == 404
    assert served.ask("/models/a/b/predict", {}).status == 404
    assert served.ask("/models//predict", {}).status == 404
    assert served.ask("/models/a%2Fb/predict", {}).status == 404


def test_other_methods_get_405_with_the_allowed_ones(served: Tidemill) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
        got = served.ask("/predict", method=method)
        assert (got.status, got.headers["allow"]) == (405, "OPTIONS, POST")
    got = served.ask("/predict", method="OPTIONS")
    assert (got.status, got.headers["allow"], got.body) == (204, "OPTIONS, POST", b"")
    assert served.ask("/health", b"", method="POST").headers["allow"] == "GET, HEAD, OPTIONS"


def test_without_a_default_the_error_names_the_urls(home: Any, start: Start) -> None:
    make_shelf(home / "shelf", ("classifier", "regressor"), default=None)
    running = start()
    got = running.ask("/predict", {"features": ROW})
    assert got.status == 409
    assert "/models/classifier/predict, /models/regressor/predict" in got.json()["remedy"]
    assert predict(running, "classifier", {"features": ROW}).status == 200


def test_a_single_model_is_the_default(home: Any, start: Start) -> None:
    make_shelf(home / "shelf", ("regressor",), default=None)
    assert start().ask("/predict", HOUSE).json()["model"] == "regressor"


def test_without_a_model_503_says_what_to_do(start: Start) -> None:
    got = start().ask("/predict", {"features": ROW})
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert "tidemill train" in got.json()["remedy"]


def test_a_body_over_the_limit_gets_413(home: Any, start: Start) -> None:
    make_shelf(home / "shelf")
    running = start(max_body=1000)
    body = msgspec.json.encode({"features": ROW})
    assert running.ask("/predict", body + b" " * (1000 - len(body))).status == 200
    for size in (1001, 2000, 100_000):
        got = running.ask("/predict", b"x" * size)
        assert (got.status, got.json()["expected"]) == (413, "at most 1000 bytes")
        assert got.headers["connection"] == "close"


numbers = st.floats(-1e6, 1e6, width=32)
rows = st.lists(numbers, min_size=6, max_size=6)


@given(rows)
def test_all_formats_of_any_row_agree_with_the_model(served: Tidemill, row: Any) -> None:
    named = dict(zip(FLOATS, row, strict=True))
    forms = [{"features": row}, {"features": named}, named]
    answers = [without_id(served.ask("/predict", form)) for form in forms]
    batch = served.ask("/predict", {"instances": [row, named, {"features": named}]}).json()
    for each in batch["predictions"]:
        answers.append({**each, "model": "classifier", "version": "1"})
        del answers[-1]["id"]
    assert all(a == answers[0] for a in answers)
    predictor = served.service.models.find("classifier")
    outputs = Scorer(predictor.bundle).outputs([row])
    wanted = outputs.probability_rows[0]
    assert np.allclose(list(answers[0]["probabilities"].values()), wanted, rtol=1e-6, atol=1e-12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(
            st.sampled_from(("features", "instances", "image", "area", "side", *FLOATS))
            | st.text(),
            inner,
            max_size=7,
        )
    ),
    max_leaves=40,
)


@given(
    st.sampled_from(("classifier", "regressor", "pictures")),
    st.sampled_from(("predict", "predict_batch")),
    json_values,
)
def test_no_json_makes_the_server_fail(served: Tidemill, model: str, path: str, value: Any) -> None:
    body = json.dumps(value).encode("utf-8", "surrogatepass")
    got = served.ask(f"/models/{model}/{path}", body)
    assert got.status in (200, 400, 422)
    assert got.json()["model" if got.status == 200 else "detail"]


@given(st.binary(max_size=60))
def test_no_bytes_make_the_server_fail(served: Tidemill, body: bytes) -> None:
    assert served.ask("/predict", body).status in (400, 422)
