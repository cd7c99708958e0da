"""Iris: which species is it? From a raw CSV file to a model, with the processed tables on disk.

Run it: `tidemill train --project gallery:iris`.
"""

from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Gate, Project, csv

COLUMNS = {
    "SepalLengthCm": "sepal_length",
    "SepalWidthCm": "sepal_width",
    "PetalLengthCm": "petal_length",
    "PetalWidthCm": "petal_width",
    "Species": "species",
}


def write_raw(path: Path) -> None:
    """Write scikit-learn's iris table in the format of the one on Kaggle."""
    flowers = load_iris(as_frame=True)
    raw = flowers.data.set_axis(list(COLUMNS)[:4], axis="columns")
    raw.insert(0, "Id", range(1, len(raw) + 1))
    raw["Species"] = [f"Iris-{flowers.target_names[number]}" for number in flowers.target]
    raw.to_csv(path, index=False)


project = Project(
    name="iris-classifier",
    description="Predicts the species of an iris from the sizes of its sepals and petals.",
    data=csv("data/raw/Iris.csv", make=write_raw),  # generated if missing
    rename=COLUMNS,
    drop=["Id"],
    target="species",
    processed="data/processed",  # train.csv and test.csv
    candidates=[
        Candidate("logistic_regression", LogisticRegression, {"max_iter": 1000}),
        Candidate("random_forest", RandomForestClassifier, {"n_estimators": 100}),
    ],
    gate=Gate(metric="accuracy", minimum={"accuracy": 0.85}),
    autolog=False,  # True also enables mlflow.sklearn.autolog()
)
