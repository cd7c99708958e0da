"""Inference shared by both lower bounds: one ONNX Runtime session, one thread."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import onnxruntime


class Request(msgspec.Struct):
    rows: list[list[float]]


class Response(msgspec.Struct):
    predictions: list[int]
    probabilities: list[list[float]]


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options)
decode = msgspec.json.Decoder(Request).decode
encode = msgspec.json.Encoder().encode


def answer(body: bytes) -> bytes:
    """Decode JSON rows, run the model, and encode labels and probabilities as JSON."""
    rows = np.array(decode(body).rows, np.float32)
    labels, probabilities = session.run(None, {"X": rows})
    return encode(Response(labels.tolist(), probabilities.tolist()))
