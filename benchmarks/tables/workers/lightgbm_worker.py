"""LightGBM as a competent colleague would tune it: early stopping, and a search in the budget."""

from __future__ import annotations

import time
import warnings
from typing import Any

import lightgbm as lgb
import numpy as np
import optuna
import pandas as pd
from common import Job
from sklearn.model_selection import KFold, StratifiedKFold

warnings.filterwarnings("ignore")
optuna.logging.set_verbosity(optuna.logging.WARNING)
METRIC = {"binary": "auc", "multiclass": "multi_logloss", "regression": "rmse"}


def columns(frame: pd.DataFrame, categories: dict[str, Any]) -> pd.DataFrame:
    """Dates become numbers, other texts categories; remembers the training rows' categories."""
    found = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype == object:
            dates = pd.to_datetime(column, errors="coerce", format="ISO8601")
            if dates.notna().mean() > 0.9:
                found[f"{name}.time"] = dates.astype("int64") / 1e9
                found[f"{name}.year"], found[f"{name}.day"] = dates.dt.year, dates.dt.dayofyear
                found[f"{name}.hour"], found[f"{name}.week"] = dates.dt.hour, dates.dt.dayofweek
                continue
            kinds = categories.setdefault(
                name, pd.CategoricalDtype(sorted(column.dropna().unique()))
            )
            column = column.astype(kinds)
        found[name] = column
    return pd.DataFrame(found)


def main() -> None:
    job = Job("lightgbm")
    train, categories = job.train(), {}
    y, X = train.pop(job.target), columns(train, categories)
    test = columns(job.test(), categories)
    classes = sorted(y.unique(), key=str)
    codes = y.map({c: i for i, c in enumerate(classes)}) if job.task != "regression" else y
    ends = time.monotonic() + job.seconds * 0.85
    folds = _folds(job.task, X, codes)

    def cross_validated(trial: optuna.Trial) -> float:
        params = {
            "num_leaves": trial.suggest_int("num_leaves", 4, 128, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 2, 60, log=True),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "subsample_freq": 1,
            "reg_lambda": trial.suggest_float("reg_lambda", 1e-3, 10.0, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
        }
        scores, rounds = [], []
        for inside, outside in folds:
            model = _model(job.task, params, 2000)
            model.fit(
                X.iloc[inside],
                codes.iloc[inside],
                eval_set=[(X.iloc[outside], codes.iloc[outside])],
                eval_metric=METRIC[job.task],
                callbacks=[lgb.early_stopping(40, verbose=False)],
            )
            scores.append(next(iter(model.best_score_.values()))[METRIC[job.task]])
            rounds.append(model.best_iteration_)
            if time.monotonic() > ends:
                break
        trial.set_user_attr("rounds", int(np.mean(rounds)) + 1)
        trial.set_user_attr("params", params)
        return float(np.mean(scores))

    study = optuna.create_study(
        direction="maximize" if job.task == "binary" else "minimize",
        sampler=optuna.samplers.TPESampler(seed=1),
    )
    study.optimize(cross_validated, n_trials=100, timeout=job.seconds * 0.85)
    best = study.best_trial
    model = _model(job.task, best.user_attrs["params"], best.user_attrs["rounds"])
    model.fit(X, codes)
    predicted = model.predict(test)
    if job.task == "regression":
        job.write(predicted, trials=len(study.trials))
        return
    positive = model.predict_proba(test)[:, -1]
    job.write([classes[int(i)] for i in predicted], positive, trials=len(study.trials))


def _model(task: str, params: dict[str, Any], rounds: int) -> Any:
    kind = lgb.LGBMRegressor if task == "regression" else lgb.LGBMClassifier
    return kind(n_estimators=rounds, n_jobs=2, verbose=-1, random_state=1, **params)


def _folds(task: str, X: pd.DataFrame, codes: Any) -> list[Any]:
    if task == "regression":
        return list(KFold(4, shuffle=True, random_state=1).split(X))
    return list(StratifiedKFold(4, shuffle=True, random_state=1).split(X, codes))


if __name__ == "__main__":
    main()
