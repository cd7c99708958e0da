"""FastAPI + scikit-learn as in tutorials: a Pydantic body, an endpoint, model.predict."""

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

model = joblib.load(os.environ["MODEL"])
app = FastAPI()


class Request(BaseModel):
    rows: list[list[float]]


class Response(BaseModel):
    predictions: list[int]


@app.post("/predict")
async def predict(request: Request) -> Response:
    return Response(predictions=model.predict(np.array(request.rows)).tolist())


@app.post("/predict-in-thread")
def predict_in_thread(request: Request) -> Response:
    return Response(predictions=model.predict(np.array(request.rows)).tolist())
