"""Two fast candidates for a classification stream."""

from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from tidemill import Candidate, Gate, Project, csv

project = Project(
    name="stream",
    data=csv("replaced by the warm-up.csv"),
    target="target",
    task="classification",
    candidates=[
        Candidate("logistic_regression", LogisticRegression),
        Candidate("tree", DecisionTreeClassifier, {"max_depth": 8, "min_samples_leaf": 5}),
    ],
    gate=Gate(metric="accuracy"),
)
