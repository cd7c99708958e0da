"""The profile that the export step makes is the one that drift reads."""

import msgspec
import numpy as np
import pandas as pd
import pytest

from tidemill.signature import Column, Signature, Tensor
from tidemill.steps.decay.holdout import read_holdout
from tidemill.steps.drift.check import check_drift
from tidemill.steps.export.model_io import ModelPredictions
from tidemill.steps.export.reference_profile import columns_of, make_profile

SIGNATURE = Signature(
    "classification",
    "churned",
    (
        Column("age", "integer", nullable=True),
        Column("fee", "number"),
        Column("plan", "text", nullable=True),
        Column("member", "boolean"),
    ),
    labels=("no", "yes"),
)


def customers(rows, seed):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": np.where(random.random(rows) < 0.1, np.nan, random.integers(18, 80, rows)),
            "fee": random.normal(20, 4, rows).round(2),
            "plan": pd.Series(random.choice(["basic", "pro"], rows)).where(
                random.random(rows) > 0.05
            ),
            "member": random.random(rows) < 0.4,
        }
    )


def answers(rows, seed):
    chances = np.random.default_rng(seed).dirichlet([4, 2], rows)
    labels = chances.argmax(axis=1)
    return ModelPredictions(np.array(["no", "yes"], dtype=object)[labels], labels, chances)


@pytest.fixture(scope="module")
def profile():
    truth = np.random.default_rng(5).choice(["no", "yes"], 300).astype(object)
    made = make_profile(customers(3000, 0), SIGNATURE, answers(300, 1), y_test=truth)
    return msgspec.json.decode(msgspec.json.encode(made))


def test_a_clean_window_of_every_kind_of_column_has_not_moved(profile):
    said = answers(400, 3)
    confidence = said.probabilities.max(axis=1)
    report = check_drift(profile, customers(400, 2), said.predictions, confidence=confidence)

    assert not report.moved
    assert {f.name: f.kind for f in report.features} == {
        "age": "integer",
        "fee": "number",
        "plan": "text",
        "member": "boolean",
    }
    assert report.output is not None
    assert report.confidence is not None
    assert report.multivariate is not None
    assert report.distinct == 400


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("age", lambda column: column + 8),
        ("fee", lambda column: column * 1.1),
        ("plan", lambda column: column.fillna("pro")),
        ("member", lambda column: ~column),
    ],
)
def test_a_change_in_any_kind_of_column_is_found(profile, name, change):
    window = customers(600, 4)
    report = check_drift(profile, window.assign(**{name: change(window[name])}))

    assert report.drifted == (name,)


def test_a_window_read_back_from_json_is_as_good_as_a_frame(profile):
    window = customers(400, 2)
    rows = msgspec.json.decode(
        msgspec.json.encode(window.astype(object).where(window.notna(), None).to_dict("list"))
    )
    found = check_drift(profile, {name: np.array(c, dtype=object) for name, c in rows.items()})

    assert found.features == check_drift(profile, window).features


def test_the_holdout_comes_with_its_calibration(profile):
    holdout = read_holdout(profile)

    assert holdout.rows == 300
    assert holdout.calibration.rows == 300
    assert holdout.metrics["f1_score"].error > 0


def test_images_are_compared_by_what_sums_them_up():
    signature = Signature("regression", "age", tensor=Tensor("image", (8, 8)))
    random = np.random.default_rng(6)
    images = random.random((600, 8, 8)).astype(np.float32)
    profile = make_profile(images, signature, ModelPredictions(random.normal(size=100)))
    darker = columns_of(images[:200] * 0.8, signature)

    assert not check_drift(profile, columns_of(images[:200], signature)).moved
    assert "image:mean" in check_drift(profile, darker).drifted
