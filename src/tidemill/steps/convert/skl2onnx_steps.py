"""Steps without a converter of Tidemill's own: skl2onnx converts them one at a time.

In double precision, or in single if requested, since some of its converters and some operations of
ONNX Runtime exist only in single precision.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier

from tidemill.errors import ExportError
from tidemill.steps.convert.blocks import (
    Block,
    NumberBlock,
    TextBlock,
    as_numbers,
    matrix,
    number_block,
)
from tidemill.steps.convert.dispatch import (
    EstimatorOutputs,
    convert_estimator,
    convert_scores,
    convert_transformer,
)
from tidemill.steps.convert.graph import (
    DOUBLE,
    FLOAT,
    ML,
    OLD_ML_OPSET,
    OPSET,
    STRING,
    Graph,
)

#: Classifiers that predict the class with the highest probability, the first if several are equal.
PREDICTS_ARGMAX = (
    BernoulliNB,
    ComplementNB,
    GaussianNB,
    MLPClassifier,
    MultinomialNB,
    QuadraticDiscriminantAnalysis,
)


@convert_transformer.register(object)
def _transformer(step: Any, graph: Graph, block: Block) -> NumberBlock:
    """A transformer of numbers, or of one column of text."""
    if isinstance(block, TextBlock):
        return _of_text(step, graph, block)
    columns = as_numbers(graph, block)
    (name,) = _embedded(step, graph, columns, {})[:1]
    return number_block(graph.double(name), _width(step, columns.width))


@convert_estimator.register(object)
def _estimator(step: Any, graph: Graph, block: Block) -> EstimatorOutputs:
    """A classifier's label and probabilities, or a regressor's value."""
    columns = as_numbers(graph, block)
    if not hasattr(step, "classes_"):
        (name,) = _embedded(step, graph, columns, {})[:1]
        return EstimatorOutputs(value=graph.reshape(graph.double(name), -1, 1))
    has_probabilities = hasattr(step, "predict_proba")
    options = {"zipmap": False} if has_probabilities else {}
    names = _embedded(step, graph, columns, options)
    if has_probabilities and isinstance(step, PREDICTS_ARGMAX):
        return EstimatorOutputs(probabilities=graph.double(names[1]))
    chosen = _position(step, graph, names[0])
    return EstimatorOutputs(
        probabilities=graph.double(names[1]) if has_probabilities else None, label=chosen
    )


@convert_scores.register(object)
def _scores(step: Any, graph: Graph, block: Block) -> str:
    """A classifier's decision function."""
    columns = as_numbers(graph, block)
    names = _embedded(step, graph, columns, {"zipmap": False, "raw_scores": True})
    found = graph.double(names[1])
    return graph.columns(found, [1]) if len(step.classes_) == 2 else found


def _embedded(step: Any, graph: Graph, columns: NumberBlock, options: dict[str, Any]) -> list[str]:
    name = matrix(graph, columns)
    model = _converted(graph, step, columns.width, options)
    feed = graph.cast(name, FLOAT) if graph.single else name
    return graph.embed(model, {model.graph.input[0].name: feed})


def _converted(graph: Graph, step: Any, width: int, options: dict[str, Any]) -> onnx.ModelProto:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = FloatTensorType if graph.single else DoubleTensorType
    model = _convert(graph, step, [("X", kind([None, width]))], options)
    declared = model.graph.input[0].type.tensor_type.elem_type
    if declared != (FLOAT if graph.single else DOUBLE):
        raise ExportError(f"{type(step).__name__} cannot be converted in this precision.")
    return model


def _convert(
    graph: Graph, step: Any, inputs: list[Any], options: dict[str, Any]
) -> onnx.ModelProto:
    """Convert one step with skl2onnx.

    Raises:
        ExportError: skl2onnx has no converter for the step, or fails.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.exceptions import MissingShapeCalculator

    graph.external_steps.append(type(step).__name__)
    try:
        with _silenced():
            model = convert_sklearn(
                step,
                initial_types=inputs,
                options={id(step): options} if options else None,
                target_opset={"": OPSET, ML: OLD_ML_OPSET},
            )
    except MissingShapeCalculator as error:
        raise ExportError(f"There is no converter for {type(step).__name__}.") from error
    except Exception as error:  # a converter may raise anything
        reason = str(error).strip().split("\n")[0][:200]
        raise ExportError(
            f"skl2onnx does not convert {type(step).__name__} ({type(error).__name__}: {reason})."
        ) from error
    converted: onnx.ModelProto = model
    return converted


def _of_text(step: Any, graph: Graph, block: TextBlock) -> NumberBlock:
    """Counting and hashing of words in one column of text without missing values."""
    from skl2onnx.common.data_types import StringTensorType

    if block.width != 1:
        raise ExportError(f"{type(step).__name__} gets several texts a row.")
    model = _convert(graph, step, [("X", StringTensorType([None, 1]))], {})
    if model.graph.input[0].type.tensor_type.elem_type != STRING:
        raise ExportError(f"{type(step).__name__} does not take texts.")
    name = graph.columns(block.source, block.index.tolist())
    (found,) = graph.embed(model, {model.graph.input[0].name: name})[:1]
    return number_block(graph.double(found), len(step.get_feature_names_out()))


def _width(step: Any, given: int) -> int:
    """How many columns a transformer returns for `given` columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(np.asarray(step.transform(np.ones((1, given)))).reshape(1, -1).shape[1])


def _position(step: Any, graph: Graph, chosen: str) -> str:
    """Convert skl2onnx's label to its index in `classes_`."""
    classes = np.asarray(step.classes_)
    if classes.dtype.kind in "iu" and list(classes) == list(range(len(classes))):
        return graph.reshape(chosen, -1)
    if classes.dtype.kind not in "iuUO":
        raise ExportError(f"{type(step).__name__} with labels of type {classes.dtype}.")
    texts = classes.dtype.kind in "UO"
    keys = {"keys_strings" if texts else "keys_int64s": classes.tolist()}
    if texts:
        places: dict[str, Any] = {"values_int64s": list(range(len(classes)))}
        return graph.reshape(graph.ml("LabelEncoder", chosen, **keys, **places), -1)
    column = graph.reshape(chosen, -1, 1)
    same = graph.add("Equal", column, graph.constant([classes], np.int64))
    return graph.add("ArgMax", graph.cast(same, FLOAT), axis=1, keepdims=0)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the warnings and log lines of skl2onnx about its own code."""
    logger = logging.getLogger("skl2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
