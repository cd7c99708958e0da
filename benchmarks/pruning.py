"""CPU time saved by pruning: guided searches with and without it, on scikit-learn's data sets.

    python -m benchmarks.pruning [--seeds 3] [--trials 20] [--only sgd,mlp]

Reports the CPU seconds of screening and fitting, without MLflow, and the best value on the held-out
rows. Both searches of a seed start with the same hyperparameters.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sklearn.datasets import load_digits, make_classification, make_friedman1
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier

from tidemill import Candidate, Project
from tidemill.loop.training.trial import fit_and_evaluate, screen_trial
from tidemill.metrics import METRICS
from tidemill.steps.data.prepare import prepare
from tidemill.steps.search.pruning import TrialPruned
from tidemill.steps.search.search import Trial, open_search


@dataclass
class SearchCost:
    """The best value, CPU seconds and number of pruned trials of a search."""

    best: float
    screening: float
    fitting: float
    pruned: int


def table(X: Any, y: Any) -> pd.DataFrame:
    """Return rows as a project reads them."""
    return pd.DataFrame(X, columns=[f"x{n}" for n in range(X.shape[1])]).assign(target=y)


def classes() -> pd.DataFrame:
    """Make 12,500 rows of 20 columns, half of them noise, three classes, some labels wrong."""
    X, y = make_classification(
        12_500, 20, n_informative=8, n_redundant=3, n_classes=3, flip_y=0.05, random_state=0
    )
    return table(X, y)


def values() -> pd.DataFrame:
    """Make 12,500 rows of 20 columns of Friedman's first function."""
    return table(*make_friedman1(12_500, 20, noise=1.0, random_state=0))


def digits() -> pd.DataFrame:
    """Load 1,797 images of digits."""
    return table(*load_digits(return_X_y=True))


STEPS = {"learning_rate": ["optimal", "constant", "invscaling", "adaptive"], "eta0": (1e-4, 1.0)}
CASES = {
    "sgd": (
        classes,
        SGDClassifier,
        {"loss": ["hinge", "log_loss", "modified_huber"], "alpha": (1e-7, 1.0), **STEPS},
    ),
    "sgd_values": (
        values,
        SGDRegressor,
        {
            "alpha": (1e-7, 1.0),
            "eta0": (1e-5, 0.1),
            "learning_rate": ["constant", "invscaling", "adaptive"],
        },
    ),
    "mlp": (
        digits,
        MLPClassifier,
        {
            "hidden_layer_sizes": [(8,), (32,), (64,), (64, 32)],
            "alpha": (1e-6, 1.0),
            "learning_rate_init": (1e-5, 0.3),
        },
    ),
}


def run_search(project: Project, seed: int, trials: int) -> SearchCost:
    """Run and time one search."""
    data = prepare(project)
    metric = project.gate.deciding_metric(data.task)
    candidate = project.candidates[0]
    maximize = METRICS[metric].higher_is_better
    search = open_search(candidate, trials=trials, seed=seed, maximize=maximize)
    screening = fitting = 0.0
    pruned, known = 0, []
    while (settings := search.ask()) is not None:
        trial, callback = Trial(candidate.name, 1, 1, settings), search.pruning_callback(settings)
        ended, value = None, None
        began = time.process_time()
        try:
            screen_trial(trial, project, data, metric, callback)
            screening += time.process_time() - began
            began = time.process_time()
            with contextlib.suppress(ValueError):  # it diverged
                value = fit_and_evaluate(
                    trial, project, data, callback=callback
                ).evaluation.metrics[metric]
            fitting += time.process_time() - began
        except TrialPruned as raised:
            screening += time.process_time() - began
            ended, pruned = raised.pruning, pruned + 1
        if value is not None:
            known.append(value)
        search.tell(settings, value, ended)
    return SearchCost((max if maximize else min)(known), screening, fitting, pruned)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--only", default=",".join(CASES))
    options = parser.parse_args()
    print(
        "| search | pruned | CPU s, full | CPU s, pruned (screening) | best, full | best, pruned |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.only.split(","):
        make, estimator, space = CASES[name]
        whole, short = [], []
        for seed in range(options.seeds):
            for prune, into in ((False, whole), (True, short)):
                candidate = Candidate(name, estimator, search=space, prune=prune)
                project = Project("bench", make, "target", [candidate])
                into.append(run_search(project, seed, options.trials))
        count = sum(t.pruned for t in short)
        full_cost = sum(t.screening + t.fitting for t in whole)
        pruned_cost = sum(t.screening + t.fitting for t in short)
        screening = sum(t.screening for t in short)
        bests = [" ".join(f"{t.best:.4f}" for t in found) for found in (whole, short)]
        print(
            f"| {name} | {count} of {options.seeds * options.trials} | {full_cost:.1f} "
            f"| {pruned_cost:.1f} ({screening:.1f}) | {bests[0]} | {bests[1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
