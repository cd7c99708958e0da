"""Breast cancer: is a tumour malignant or benign? 569 rows, 30 measurements, logistic regression.

Run it: `tidemill train --project gallery:breast_cancer`.
"""

from typing import Literal

from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project, sklearn_dataset


def logistic_regression(C: float = 1.0, penalty: Literal["l1", "l2"] = "l2") -> LogisticRegression:
    """Logistic regression with the familiar parameters C and penalty.

    A candidate can be any function that returns an estimator; the function's parameters are
    searched and logged. scikit-learn now expresses the penalty as a ratio of L1 to L2.
    """
    ratio, solver = {"l1": (1.0, "saga"), "l2": (0.0, "lbfgs")}[penalty]
    return LogisticRegression(C=C, l1_ratio=ratio, solver=solver, max_iter=10_000)


project = Project(
    name="ClassificationModel",
    description="Classifies tumours as malignant or benign from 30 measurements of cell nuclei.",
    data=sklearn_dataset("breast_cancer"),
    target="target",
    candidates=[
        Candidate(
            "logistic_regression",
            logistic_regression,
            search={"C": [0.1, 1.0, 10.0], "penalty": ["l1", "l2"]},  # six runs
        )
    ],
    gate=Gate(metric="f1_score", minimum={"f1_score": 0.9, "recall": 0.9}),
)
