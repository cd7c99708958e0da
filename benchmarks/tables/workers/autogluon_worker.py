"""AutoGluon with the preset `medium_quality` and the budget."""

from __future__ import annotations

from autogluon.tabular import TabularPredictor
from common import Job

METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


def main() -> None:
    job = Job("autogluon")
    predictor = TabularPredictor(
        label=job.target,
        problem_type=job.task,
        eval_metric=METRIC[job.task],
        path=str(job.out / "models"),
        verbosity=1,
    ).fit(job.train(), presets="medium_quality", time_limit=job.seconds)
    test = job.test()
    positive = None
    if job.task == "binary":
        chances = predictor.predict_proba(test)
        positive = chances[sorted(chances.columns, key=str)[-1]]
    job.write(predictor.predict(test), positive, best=predictor.model_best)


if __name__ == "__main__":
    main()
