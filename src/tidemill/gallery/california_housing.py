"""California Housing: what is the median house value of a district? 20,640 districts in 1990.

Run it: `tidemill train --project gallery:california_housing`.
"""

from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge

from tidemill import Candidate, Gate, Project, sklearn_dataset

project = Project(
    name="california-housing",
    description="Estimates the median house value of a district, in units of 100,000 dollars.",
    data=sklearn_dataset("california_housing"),
    target="MedHouseVal",
    task="regression",
    processed="data/processed",  # train.csv, test.csv and best_model_metrics.json
    candidates=[
        Candidate("ridge", Ridge, search={"alpha": [0.1, 1.0, 10.0]}),
        Candidate(
            "random_forest",
            RandomForestRegressor,
            # Leaves of ten districts cost little accuracy and make the model ten times smaller.
            {"n_estimators": 100, "min_samples_leaf": 10, "max_features": 0.5, "n_jobs": -1},
        ),
        Candidate(
            "gradient_boosting",
            HistGradientBoostingRegressor,
            {"max_iter": 400, "max_leaf_nodes": 31},
            search={"learning_rate": [0.05, 0.1]},
        ),
    ],
    gate=Gate(metric="rmse", minimum={"rmse": 0.6, "r2": 0.7}),
)
