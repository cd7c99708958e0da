"""The native fallback: runs a scikit-learn model from a skops file if it cannot be compiled.

Imported only for a bundle that needs it. skops rebuilds objects by type, without unpickling, and
refuses every type that is neither in its own list nor in the one here; the list in a bundle's
manifest is ignored. Needs `pip install 'tidemill[native]'`. See decision 133.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from tidemill.bundle import Bundle, ModelInput
from tidemill.errors import BundleError
from tidemill.serving.codec.outputs import Array, RawOutputs
from tidemill.signature import Signature

#: Types that this server rebuilds in addition to those that skops trusts itself: parts of fitted
#: scikit-learn estimators that only store numbers, and functions that only compute. None of them
#: calls what a bundle names, reads files or imports modules. Compiled types (trees) do not check
#: their indices, so a forged file can crash the process: load only bundles with a known digest.
TRUSTED = frozenset(
    {
        "numpy.dtype",
        "numpy.mean",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.interpolate._interpolate.interp1d",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.ExponentialLoss",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn._loss.loss.HuberLoss",
        "sklearn._loss.loss.PinballLoss",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.CompoundKernel",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.ExpSineSquared",
        "sklearn.gaussian_process.kernels.Exponentiation",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.PairwiseKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)


def load_native(bundle: Bundle, *, trusted: Iterable[str] = ()) -> NativeRuntime:
    """Load the model of a native-fallback bundle.

    Raises:
        BundleError: scikit-learn or skops is not installed, the model contains a type that is
            trusted neither here nor by the operator, or it cannot be rebuilt.
    """
    model = rebuild(bundle.model_path.read_bytes(), trusted=trusted)
    return NativeRuntime(model, bundle.manifest.inputs, bundle.signature)


def rebuild(content: bytes, *, trusted: Iterable[str] = ()) -> Any:
    """Rebuild the model in a skops file, if all of its types are trusted.

    Raises:
        BundleError: As in `load_native`.
    """
    skops = _skops()
    allowed = TRUSTED | frozenset(trusted)
    needed = _untrusted_types(skops, content)
    if refused := [name for name in needed if name not in allowed]:
        raise BundleError(
            f"The bundle's model contains {', '.join(refused)}, which this server does not trust.",
            remedy="Use an estimator that compiles to ONNX, or add the type to"
            " TIDEMILL_TRUSTED_TYPES.",
        )
    try:
        return skops.loads(content, trusted=needed)
    except Exception as error:  # a manipulated file may fail in any way
        raise BundleError(f"The bundle's model cannot be rebuilt: {error}") from error


def _untrusted_types(skops: ModuleType, content: bytes) -> list[str]:
    try:
        return sorted(str(name) for name in skops.get_untrusted_types(data=content))
    except Exception as error:
        raise BundleError(f"The bundle's model is not a skops file: {error}") from error


def _skops() -> ModuleType:
    try:
        importlib.import_module("sklearn")
        return importlib.import_module("skops.io")
    except ImportError as error:
        raise BundleError(
            "This bundle needs scikit-learn and skops, which are not installed.",
            remedy="pip install 'tidemill[native]'",
        ) from error


class NativeRuntime:
    """Runs a scikit-learn model on the arrays of the manifest's inputs.

    Args:
        model: Fitted; takes arrays with the columns in the signature's order.
    """

    def __init__(self, model: Any, inputs: tuple[ModelInput, ...], signature: Signature) -> None:
        self._model = model
        self._inputs = inputs
        self._indices = [[signature.names.index(c) for c in i.columns] for i in inputs]
        self._width = len(signature.columns)
        self._classes = np.asarray(model.classes_) if signature.labels else None
        self._gives_probabilities = self._classes is not None and hasattr(model, "predict_proba")

    def run(self, inputs: list[Array]) -> RawOutputs:
        """Label indices, probabilities and values; see `tidemill.serving.model.runtime.Runtime`."""
        rows = self._rows(inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown in training
            found = np.asarray(self._model.predict(rows)).reshape(len(rows))
            if self._classes is None:
                return None, None, found.astype(np.float64)
            labels = np.searchsorted(self._classes, found)
            if not self._gives_probabilities:
                return labels, None, None
            probabilities = self._model.predict_proba(rows)
        return labels, np.asarray(probabilities, np.float64), None

    def _rows(self, inputs: list[Array]) -> Array:
        """All columns in the signature's order; of type object if there are strings."""
        if len(inputs) == 1 and self._inputs[0].dtype != "string":
            return inputs[0]
        rows = np.empty((len(inputs[0]), self._width), dtype=object)
        for entry, indices, array in zip(self._inputs, self._indices, inputs, strict=True):
            rows[:, indices] = array
            if entry.missing is not None:
                missing = array == entry.missing
                rows[:, indices] = np.where(missing, np.nan, array)
        return rows
