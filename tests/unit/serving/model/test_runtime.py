from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import FunctionTransformer
from skops import io as skops

from tidemill import bundle
from tidemill.bundle import Bundle, ModelInput, ModelOutputs
from tidemill.errors import BundleError
from tidemill.project import Candidate, Project
from tidemill.serving.model import sklearn_runtime as native
from tidemill.serving.model.runtime import load_runtime
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle


def table(texts: bool) -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(80, 3)), columns=["a", "b", "c"])
    if texts:
        X["t"] = rng.choice(np.array(["x", "y", None], object), 80)
    return X, np.where(X["a"] + rng.normal(size=80) > 0, "up", "down")


def made(folder: Path, estimator: Any, *, texts: bool = False, task: str = "") -> Bundle:
    X, y = table(texts)
    y = X["a"].to_numpy() if task else y
    project = Project("m", lambda: X, "y", [Candidate("c", object)])
    model = build_pipeline(estimator, X, project).fit(X, y)
    signature = infer_signature(X, y, "regression" if task else "classification", project)
    return export_bundle(model, signature, X, HeldOutRows(X, y), folder, BundleMetadata("m"))


def rewritten(held: Bundle, **changes: Any) -> Bundle:
    """The bundle under another manifest, sealed again."""
    manifest = msgspec.structs.replace(held.manifest, **changes)
    return bundle.seal(held.path, manifest)


def test_a_single_row_gets_the_same_answer_as_in_a_batch(tmp_path: Path) -> None:
    runtime = load_runtime(made(tmp_path / "b", LogisticRegression()))
    rows = table(False)[0].to_numpy()
    labels, likely, values = runtime.run([rows])
    assert labels is None
    assert values is None
    assert likely is not None
    assert likely.shape == (80, 2)
    for i in (0, 1, 79):
        alone = runtime.run([rows[i : i + 1]])[1]
        np.testing.assert_allclose(alone, likely[i : i + 1], rtol=1e-14)


def test_answers_of_one_row_are_not_overwritten_by_the_next(tmp_path: Path) -> None:
    runtime = load_runtime(made(tmp_path / "b", LogisticRegression()))
    rows = table(False)[0].to_numpy()
    first = runtime.run([rows[:1]])[1]
    assert first is not None
    kept = first.copy()
    runtime.run([rows[1:2]])
    np.testing.assert_array_equal(first, kept)


def test_threads_get_their_own_answers(tmp_path: Path) -> None:
    runtime = load_runtime(made(tmp_path / "b", RandomForestClassifier(20, random_state=0)))
    rows = table(False)[0].to_numpy()
    expected = runtime.run([rows])[1]
    assert expected is not None
    wrong: list[int] = []

    def ask(offset: int) -> None:
        for i in range(400):
            place = (i * 7 + offset) % 80
            found = runtime.run([rows[place : place + 1]])[1]
            if not np.array_equal(found, expected[place : place + 1]):
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_regressor_gives_values(tmp_path: Path) -> None:
    runtime = load_runtime(made(tmp_path / "b", Ridge(), task="regression"))
    labels, likely, values = runtime.run([table(False)[0].to_numpy()])
    assert (labels, likely) == (None, None)
    assert values is not None
    assert (values.shape, values.dtype) == ((80,), np.float64)
    one = runtime.run([table(False)[0].to_numpy()[:1]])[2]
    assert one is not None
    assert one.shape == (1,)


@pytest.mark.parametrize("texts", [False, True])
def test_the_native_fallback_gives_label_indices(texts: bool, tmp_path: Path) -> None:
    held = made(tmp_path / "b", NearestCentroid(), texts=texts)
    assert held.manifest.runtime == "skops"
    runtime = load_runtime(held)
    X = table(texts)[0]
    inputs = [X[["a", "b", "c"]].to_numpy()]
    if texts:
        missing = held.manifest.inputs[1].missing
        inputs.append(X[["t"]].fillna(missing).to_numpy(object))
    labels, likely, _ = runtime.run(inputs)
    assert labels is not None
    assert labels.dtype == np.int64
    assert set(labels) == {0, 1}
    assert likely is None or likely.shape == (80, 2)


def test_an_invalid_onnx_model_is_refused(tmp_path: Path) -> None:
    held = made(tmp_path / "b", LogisticRegression())
    held.model_path.write_bytes(b"not a model")
    with pytest.raises(BundleError, match="cannot load the bundle's model"):
        load_runtime(rewritten(held))


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (ModelInput("other", "float64", ("a", "b", "c")),)},
        {"inputs": (ModelInput("numbers", "float32", ("a", "b", "c")),)},
        {"inputs": (ModelInput("numbers", "float64", ("a", "b")),)},
        {"outputs": ModelOutputs(probabilities="other")},
        {"outputs": ModelOutputs()},
    ],
    ids=["name", "dtype", "width", "output", "nothing"],
)
def test_a_manifest_that_does_not_match_its_model_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    held = made(tmp_path / "b", LogisticRegression())
    with pytest.raises(BundleError, match="manifest"):
        load_runtime(rewritten(held, **changes))


def _double(X: Any) -> Any:
    return X * 2


def replaced(folder: Path, model: Any) -> Bundle:
    held = made(folder, NearestCentroid())
    held.model_path.write_bytes(skops.dumps(model))
    return rewritten(held, trusted_types=("test_runtime._double", "anything"))


def test_an_untrusted_type_is_refused_even_if_the_manifest_lists_it(
    tmp_path: Path,
) -> None:
    held = replaced(tmp_path / "b", FunctionTransformer(_double))
    with pytest.raises(BundleError, match=r"contains .*_double, which this server does not trust"):
        load_runtime(held)


def test_the_operator_can_trust_further_types(tmp_path: Path) -> None:
    model = FunctionTransformer(_double)
    [name] = skops.get_untrusted_types(data=skops.dumps(model))
    rebuilt = native.rebuild(skops.dumps(model), trusted={name})
    assert rebuilt.transform(np.ones(1)).tolist() == [2.0]


def test_an_invalid_skops_file_is_refused(tmp_path: Path) -> None:
    held = made(tmp_path / "b", NearestCentroid())
    held.model_path.write_bytes(b"PK\x03\x04 but no zip")
    with pytest.raises(BundleError, match="not a skops file"):
        load_runtime(rewritten(held))


def test_every_trusted_type_exists_or_belongs_to_another_version() -> None:
    import importlib

    found = 0
    for name in native.TRUSTED:
        module, _, attribute = name.rpartition(".")
        try:
            found += hasattr(importlib.import_module(module), attribute)
        except ImportError:
            continue
    assert found > 0.9 * len(native.TRUSTED)


def test_the_runtime_loads_neither_scikit_learn_nor_pandas(tmp_path: Path) -> None:
    held = made(tmp_path / "b", LogisticRegression())
    code = (
        "import sys, pathlib; from tidemill import bundle;"
        "from tidemill.serving.model import runtime;"
        "runtime.load_runtime(bundle.read(pathlib.Path(sys.argv[1])));"
        "print([m for m in ('sklearn', 'pandas', 'skops', 'onnx', 'pickle') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(held.path)], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.strip()
    assert loaded in ("[]", "['pickle']")  # numpy itself imports pickle


def test_the_native_fallback_does_not_import_pandas(tmp_path: Path) -> None:
    held = made(tmp_path / "b", NearestCentroid(), texts=True)
    code = (
        "import sys, pathlib\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pandas': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from tidemill import bundle; from tidemill.serving.model import loading, runtime;"
        "held = bundle.read(pathlib.Path(sys.argv[1]));"
        "loading.smoke_test(held, runtime.load_runtime(held))"
    )
    subprocess.run([sys.executable, "-c", code, str(held.path)], check=True)


def test_without_scikit_learn_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = made(tmp_path / "b", NearestCentroid())
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(BundleError) as refused:
        load_runtime(held)
    assert refused.value.remedy == "pip install 'tidemill[native]'"
