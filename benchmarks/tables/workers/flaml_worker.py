"""FLAML's AutoML with its default estimators and the budget."""

from __future__ import annotations

import warnings

from common import Job
from flaml import AutoML

warnings.filterwarnings("ignore")
METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


def main() -> None:
    job = Job("flaml")
    train = job.train()
    y = train.pop(job.target)
    automl = AutoML()
    automl.fit(
        train,
        y,
        task="regression" if job.task == "regression" else "classification",
        metric=METRIC[job.task],
        time_budget=job.seconds,
        seed=1,
        verbose=0,
    )
    test = job.test()
    positive = None
    if job.task == "binary":
        last = sorted(automl.classes_, key=str)[-1]
        positive = automl.predict_proba(test)[:, list(automl.classes_).index(last)]
    job.write(automl.predict(test), positive, best=automl.best_estimator)


if __name__ == "__main__":
    main()
