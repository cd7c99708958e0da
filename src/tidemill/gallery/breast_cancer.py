"""Breast cancer: is a tumour malignant or benign? 569 rows, 30 measurements, logistic regression.

Run it: `tidemill train --project gallery:breast_cancer`.
"""

from typing import Literal

from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project, sklearn_dataset


def logistic_regression(C: float = 1.0, penalty: Literal["l1", "l2"] = "l2") -> LogisticRegression:
    """Logistic regression with the parameters most people know it by.

    A candidate may be any function that returns an estimator; what the function takes is what is
    searched and logged. scikit-learn itself now spells the penalty as a ratio of L1 to L2.
    """
    ratio, solver = {"l1": (1.0, "saga"), "l2": (0.0, "lbfgs")}[penalty]
    return LogisticRegression(C=C, l1_ratio=ratio, solver=solver, max_iter=10_000)


project = Project(
    name="ClassificationModel",
    description="Tells malignant from benign tumours by 30 measurements of cell nuclei.",
    data=sklearn_dataset("breast_cancer"),
    target="target",
    candidates=[
        Candidate(
            "logistic_regression",
            logistic_regression,
            search={"C": [0.1, 1.0, 10.0], "penalty": ["l1", "l2"]},  # six runs, side by side
        )
    ],
    gate=Gate(metric="f1_score", minimum={"f1_score": 0.9, "recall": 0.9}),
)
