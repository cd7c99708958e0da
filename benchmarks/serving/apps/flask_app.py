"""Flask + scikit-learn as in tutorials: request.get_json, model.predict, jsonify."""

import os

import joblib
import numpy as np
from flask import Flask, Response, jsonify, request

model = joblib.load(os.environ["MODEL"])
app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    rows = np.array(request.get_json()["rows"])
    return jsonify(predictions=model.predict(rows).tolist())
