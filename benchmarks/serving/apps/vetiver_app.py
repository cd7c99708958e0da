"""vetiver as in its guide: a model with a prototype of its inputs, and the API built from it."""

import os

import joblib
from sklearn.datasets import load_breast_cancer
from vetiver import VetiverAPI, VetiverModel

frame = load_breast_cancer(as_frame=True).data
model = VetiverModel(joblib.load(os.environ["MODEL"]), "benchmark", prototype_data=frame)
app = VetiverAPI(model, check_prototype=True).app
