"""The bundle signature of an external MLflow model, from its MLflow signature or its example."""

from __future__ import annotations

from tidemill.errors import ExportError
from tidemill.signature import Label, Signature, Task, Tensor
from tidemill.steps.export.external_samples import columns_with_missing
from tidemill.steps.export.external_signature import SIGNATURE_REMEDY, Inputs, parse_inputs
from tidemill.stores.mlflow.external_models import ExternalModel


def make_signature(inputs: Inputs, labels: tuple[Label, ...], target: str) -> Signature:
    """A classifier's signature if there are labels, else a regressor's."""
    task: Task = "classification" if labels else "regression"
    if isinstance(inputs, Tensor):
        return Signature(task, target, tensor=inputs, labels=labels)
    return Signature(task, target, inputs, labels=labels)


def target_name(model: ExternalModel) -> str:
    """The name of the predicted value; `prediction` if the model does not name it."""
    return str((model.outputs or [{}])[0].get("name") or "prediction")


def signed_inputs(model: ExternalModel) -> Inputs | None:
    """The inputs in the model's MLflow signature; None without a signature."""
    if not model.inputs:
        return None
    return parse_inputs(model.inputs, columns_with_missing(model.example))


def required_inputs(model: ExternalModel) -> Inputs:
    """The inputs in the model's MLflow signature, else those of its input example.

    Raises:
        ExportError: The model has neither.
    """
    inputs = signed_inputs(model)
    if inputs is not None:
        return inputs
    if model.example is None:
        raise ExportError(
            "The model was logged without a signature and without an input example.",
            remedy=SIGNATURE_REMEDY,
        )
    from mlflow.models import infer_signature  # loads MLflow's models package

    schema = infer_signature(model.example).inputs.to_dict()
    return parse_inputs(schema, columns_with_missing(model.example))
