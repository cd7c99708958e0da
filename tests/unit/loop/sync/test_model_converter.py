"""External MLflow models are converted to bundles, or refused with a remedy."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tidemill.bundle import Bundle
from tidemill.errors import ExportError, NotFoundError
from tidemill.loop.sync.model_converter import ModelConverter
from tidemill.loop.sync.selection import parse_selection
from tidemill.loop.sync.shelf_sync import ShelfSync
from tidemill.serving.model.loading import smoke_test
from tidemill.serving.model.runtime import load_runtime
from tidemill.serving.shelf.shelf import read_state
from tidemill.signature import Column
from tidemill.steps.export.external_signature import (
    labels_from_output,
    labels_from_tag,
    parse_inputs,
)
from tidemill.stores.mlflow.model_logging import skops_types
from tidemill.stores.mlflow.registry import Registry
from tidemill.stores.mlflow.versions import ModelVersion

with warnings.catch_warnings():  # of MLflow about its own type hints
    warnings.simplefilter("ignore")
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.sklearn

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow, which warns of much when logging

Save = Callable[..., ModelVersion]
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "size": RNG.normal(50, 10, 120),
        "rooms": RNG.integers(1, 6, 120),
        "town": RNG.choice(["north", "south", "east"], 120),
    }
)
KINDS = np.where(TABLE["size"] + 5 * TABLE["rooms"] > 65, "dear", "cheap")
NUMBERS = TABLE[["size", "rooms"]]


@pytest.fixture
def registry(tmp_path: Path, mlflow_template: Path) -> Registry:
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def save(registry: Registry, tmp_path: Path) -> Save:
    """save(flavor, model, ...): registers a model as any MLflow program does, without a run."""
    client = MlflowClient(registry.connection.tracking_uri)
    count = iter(range(99))

    def register(
        flavor: Any, model: Any, tags: dict[str, str] | None = None, **options: Any
    ) -> ModelVersion:
        folder = tmp_path / f"saved-{next(count)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options.setdefault("pip_requirements", [])
            if options.get("serialization_format") == "skops":
                options["skops_trusted_types"] = skops_types(model)
            if flavor is mlflow.pyfunc:
                cloudpickle.register_pickle_by_value(sys.modules[__name__])
                flavor.save_model(str(folder), python_model=model, **options)
            else:
                flavor.save_model(model, str(folder), **options)
        if "m" not in [m.name for m in registry.models()]:
            client.create_registered_model("m")
        made = client.create_model_version("m", str(folder), tags=tags or {})
        return registry.version("m", made.version)

    return register


@pytest.fixture
def convert_model(registry: Registry, tmp_path: Path) -> Callable[..., Bundle]:
    count = iter(range(99))

    def make(version: ModelVersion, *, trust: bool = False) -> Bundle:
        return ModelConverter(registry, trust=trust)(version, tmp_path / f"adopted-{next(count)}")

    return make


def answers(bundle: Bundle, rows: Any) -> list[Any]:
    """The bundle's predictions, through the data plane's own checks and runtime."""
    from tidemill.serving.model.scorer import Scorer

    return [answer.prediction for answer in Scorer(bundle).score(rows)]


def pipeline() -> Any:
    columns = ColumnTransformer(
        [("n", StandardScaler(), ["size", "rooms"]), ("t", OneHotEncoder(), ["town"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(TABLE, KINDS)


def test_a_skops_pipeline_compiles_without_trust(save: Save, convert_model: Any) -> None:
    model = pipeline()
    version = save(
        mlflow.sklearn, model, serialization_format="skops",
        signature=infer_signature(TABLE, KINDS), input_example=TABLE[:5],
    )  # fmt: skip
    held = convert_model(version)
    assert held.manifest.runtime == "onnx"
    assert held.manifest.source["flavors"] == "python_function,sklearn"
    assert held.signature.labels == ("cheap", "dear")
    assert [c.kind for c in held.signature.columns] == ["number", "integer", "text"]
    smoke_test(held, load_runtime(held))
    assert answers(held, TABLE.to_numpy().tolist()) == model.predict(TABLE).tolist()
    assert convert_model(version).digest == held.digest  # converting it again changes nothing


def test_a_pickled_pipeline_needs_trust(save: Save, convert_model: Any) -> None:
    model = pipeline()
    version = save(
        mlflow.sklearn, model, serialization_format="cloudpickle",
        signature=infer_signature(TABLE, KINDS), input_example=TABLE[:5],
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"pickled.*--trust"):
        convert_model(version)
    held = convert_model(version, trust=True)
    assert held.manifest.runtime == "onnx"
    assert answers(held, TABLE.to_numpy().tolist()) == model.predict(TABLE).tolist()


def test_without_a_signature_the_columns_come_from_the_estimator(
    save: Save, convert_model: Any
) -> None:
    named = make_pipeline(StandardScaler(), RandomForestRegressor(5)).fit(NUMBERS, TABLE["size"])
    held = convert_model(save(mlflow.sklearn, named, serialization_format="skops"))
    assert [c.name for c in held.signature.columns] == ["size", "rooms"]
    assert held.signature.task == "regression"
    found = answers(held, NUMBERS.to_numpy().tolist())
    np.testing.assert_allclose(found, named.predict(NUMBERS), rtol=1e-5)


def test_without_column_names_the_input_is_a_tensor(save: Save, convert_model: Any) -> None:
    bare = RandomForestClassifier(5, random_state=0).fit(NUMBERS.to_numpy(), KINDS)
    held = convert_model(save(mlflow.sklearn, bare, serialization_format="skops"))
    assert held.signature.tensor is not None
    assert held.signature.tensor.shape == (2,)
    found = answers(held, NUMBERS.to_numpy().tolist())
    assert found == bare.predict(NUMBERS.to_numpy()).tolist()


def test_string_columns_without_a_signature_are_refused(save: Save, convert_model: Any) -> None:
    version = save(mlflow.sklearn, pipeline(), serialization_format="cloudpickle")
    with pytest.raises(ExportError, match=r"without a signature.*infer_signature"):
        convert_model(version, trust=True)


def onnx_model(name: str = "whatever", *, zipmap: bool = True) -> tuple[Any, Any]:
    """A scikit-learn classifier exported by skl2onnx, with a custom input name."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = LogisticRegression().fit(NUMBERS.astype(np.float32), KINDS)
    kinds = [(name, FloatTensorType([None, 2]))]
    options = {id(model): {"zipmap": zipmap}}
    return convert_sklearn(model, initial_types=kinds, options=options), model


@pytest.mark.parametrize("zipmap", [True, False])
def test_an_onnx_model_with_other_input_names_is_served_as_it_is(
    save: Save, convert_model: Any, zipmap: bool
) -> None:
    graph, model = onnx_model(zipmap=zipmap)
    version = save(
        mlflow.onnx, graph, signature=infer_signature(NUMBERS, KINDS), input_example=NUMBERS[:5]
    )
    held = convert_model(version)
    assert (held.manifest.runtime, held.signature.labels) == ("onnx", ("cheap", "dear"))
    assert held.manifest.inputs[0].name == "whatever"
    assert [c.name for c in held.signature.columns] == ["size", "rooms"]
    smoke_test(held, load_runtime(held))
    assert answers(held, NUMBERS.to_numpy().tolist()) == model.predict(NUMBERS).tolist()


def test_an_onnx_model_without_a_signature_gets_the_inputs_of_its_graph(
    save: Save, convert_model: Any
) -> None:
    graph, model = onnx_model("X")
    held = convert_model(save(mlflow.onnx, graph))
    assert held.signature.tensor is not None
    assert (held.signature.tensor.name, held.signature.tensor.shape) == ("X", (2,))
    assert answers(held, NUMBERS.to_numpy().tolist()) == model.predict(NUMBERS).tolist()


def test_an_onnx_model_with_an_input_for_each_column(save: Save, convert_model: Any) -> None:
    from skl2onnx import to_onnx

    model = make_pipeline(
        ColumnTransformer([("n", StandardScaler(), ["size", "rooms"])]), LinearRegression()
    ).fit(NUMBERS, TABLE["size"] * 3)
    graph = to_onnx(model, NUMBERS[:1])
    assert len(graph.graph.input) == 2
    held = convert_model(save(mlflow.onnx, graph))
    assert {c.name: c.kind for c in held.signature.columns} == {
        "size": "number",
        "rooms": "integer",
    }
    found = answers(held, NUMBERS.to_numpy().tolist())
    np.testing.assert_allclose(found, model.predict(NUMBERS), rtol=1e-4)


def test_an_onnx_model_of_a_fixed_number_of_rows_is_refused(save: Save, convert_model: Any) -> None:
    graph, _ = onnx_model()
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match="fixed number of rows"):
        convert_model(save(mlflow.onnx, graph))


class Doubling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input["size"] * 2 + model_input["rooms"]


class Telling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return ["long" if len(town) > 4 else "short" for town in model_input["town"]]


def test_a_python_model_is_refused_without_trust(save: Save, convert_model: Any) -> None:
    version = save(mlflow.pyfunc, Doubling(), signature=infer_signature(NUMBERS, TABLE["size"]))
    with pytest.raises(ExportError, match="--trust"):
        convert_model(version)


def test_string_labels_of_a_python_model_must_be_listed(save: Save, convert_model: Any) -> None:
    signature = infer_signature(TABLE[["town"]], ["a"])
    told = {"signature": signature, "input_example": TABLE[["town"]][:5]}
    texts = np.array(["long", "short"], object)
    with pytest.raises(ExportError, match=r"gave: long, short\..*tidemill\.labels"):
        labels_from_output(texts, ())
    tags = {"tidemill.labels": '["long", "short"]'}
    held = convert_model(save(mlflow.pyfunc, Telling(), tags, **told), trust=True)
    assert (held.manifest.runtime, held.signature.labels) == ("pyfunc", ("long", "short"))
    example = held.example()
    for row, answer in zip(example.rows, example.answers, strict=True):
        assert answer.prediction == ("long" if len(str(row[0])) > 4 else "short")


@pytest.mark.parametrize(
    ("output", "labels"),
    [
        (np.array([1.5, 2.0]), ()),
        (np.array([[1], [2]]), ()),
        (np.array([True, False]), (False, True)),
        (np.array([[0.25, 0.75], [1.0, 0.0]]), (0, 1)),
    ],
)
def test_labels_are_derived_from_outputs(output: Any, labels: tuple[Any, ...]) -> None:
    assert labels_from_output(output, ()) == labels


def test_several_numbers_per_row_are_refused() -> None:
    with pytest.raises(ExportError, match="2 numbers a row"):
        labels_from_output(np.array([[3.0, 4.0]]), ())


@pytest.mark.parametrize("tag", ["x", "{}", "[1]", '["a", "a"]', "[[1], [2]]"])
def test_a_tag_that_lists_no_labels_is_refused(tag: str) -> None:
    with pytest.raises(ExportError, match=r"tidemill\.labels"):
        labels_from_tag({"tidemill.labels": tag})


NAMED = {"type": "double", "name": "a"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([{"type": "datetime", "name": "when"}], "'when' has the unsupported MLflow type datetime"),
        ([{"type": "binary", "name": "b"}], "type binary"),
        ([{"type": "array", "name": "b", "items": NAMED}], "type array"),
        ([NAMED, NAMED], "two columns of the same name"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [2, 3]}}], "shape"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, -1]}}], "shape"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "str", "shape": [-1, 2]}}], "of str"),
        ([{"type": "tensor", "tensor-spec": {}}] * 2, "2 tensors"),
    ],
)
def test_an_unsupported_input_type_is_refused_by_name(schema: Any, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        parse_inputs(schema)


def test_optional_columns_may_be_null() -> None:
    schema = [{**NAMED, "required": False}, {"type": "long", "name": "n", "required": True}]
    assert parse_inputs(schema) == (Column("a", "number", nullable=True), Column("n", "integer"))
    assert parse_inputs([{"type": "string"}]) == (Column("column_0", "text"),)


def test_a_folder_without_a_model_is_refused(
    registry: Registry, tmp_path: Path, convert_model: Any
) -> None:
    (tmp_path / "empty").mkdir()
    client = MlflowClient(registry.connection.tracking_uri)
    client.create_registered_model("m")
    made = client.create_model_version("m", str(tmp_path / "empty"))
    with pytest.raises(NotFoundError):
        convert_model(registry.version("m", made.version))


def test_sync_installs_a_converted_bundle_once(
    registry: Registry, save: Save, tmp_path: Path
) -> None:
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(NUMBERS, TABLE["size"])
    save(mlflow.sklearn, model, serialization_format="skops", input_example=NUMBERS[:5])
    shelf = tmp_path / "shelf"

    def sync() -> ShelfSync:
        bundle_for = ModelConverter(registry, trust=False)
        return ShelfSync(registry, shelf, parse_selection(["models:/m/1"]), bundle_for=bundle_for)

    report = sync().once()
    assert not report.problems
    first = read_state(shelf).models["m"]
    again = sync().once()
    assert not again.installed
    assert read_state(shelf).models["m"] == first
    save(mlflow.sklearn, PICKLED, serialization_format="cloudpickle")
    refused = ShelfSync(
        registry,
        shelf,
        parse_selection(["models:/m/2"]),
        bundle_for=ModelConverter(registry, trust=False),
    ).once()
    assert "--trust" in refused.problems["m"]
    assert read_state(shelf).models["m"].version == "1"


PICKLED = LinearRegression().fit(NUMBERS, TABLE["size"])
