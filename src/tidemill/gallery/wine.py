"""Wine: which of three cultivars is it made from? 178 rows, 13 chemical measurements.

Run it: `tidemill train --project gallery:wine`.
"""

from typing import Literal

from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project, sklearn_dataset


def logistic_regression(C: float = 1.0, penalty: Literal["l1", "l2"] = "l2") -> LogisticRegression:
    """Logistic regression with C and penalty; scikit-learn takes a ratio of L1 to L2 instead."""
    ratio, solver = {"l1": (1.0, "saga"), "l2": (0.0, "lbfgs")}[penalty]
    return LogisticRegression(C=C, l1_ratio=ratio, solver=solver, max_iter=10_000)


project = Project(
    name="wine-classifier",
    description="Classifies wines by cultivar from 13 chemical measurements.",
    data=sklearn_dataset("wine"),
    target="target",
    candidates=[
        Candidate(
            "logistic_regression",
            logistic_regression,
            search={"C": [0.1, 1.0, 10.0], "penalty": ["l1", "l2"]},
        )
    ],
    gate=Gate(metric="f1_score", minimum={"f1_score": 0.9}),
)
