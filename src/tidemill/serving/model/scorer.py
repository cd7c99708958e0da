"""Scores rows with a bundle on the caller's thread, without a server.

Checks and answers are the same as the server's, for programs with a server of their own (a Flask
app) or without one (scoring a file). Nothing is recorded, cached or counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tidemill import bundle as bundles
from tidemill.bundle import Bundle, RowPrediction
from tidemill.errors import InputError
from tidemill.serving.codec.answer_encoder import AnswerEncoder
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.request_parsing import Row, read_rows
from tidemill.serving.codec.row_decoder import RowDecoder
from tidemill.serving.codec.tensor_encoder import TensorEncoder
from tidemill.serving.journal.prediction_ids import id_source
from tidemill.serving.model.batching import pad_single_row
from tidemill.serving.model.loading import smoke_test
from tidemill.serving.model.runtime import load_runtime
from tidemill.serving.shelf.shelf import open_bundle, read_state
from tidemill.signature import Label


class Scorer:
    """One version of a model, loaded and tested on its own example. Thread-safe.

    Raises:
        BundleError: The bundle cannot be loaded, or answers its example differently than in
            training.
    """

    def __init__(self, bundle: Bundle, name: str | None = None, version: str = "-") -> None:
        self.bundle = bundle
        self.name = name or bundle.manifest.model
        self.version = version
        self.signature = bundle.signature
        self._runtime = load_runtime(bundle)
        self._pad = smoke_test(bundle, self._runtime).pad
        self._tensor_encoder = TensorEncoder(bundle.signature, bundle.manifest.inputs)
        self._next_id = id_source()

    @classmethod
    def open(cls, source: Path | str, model: str | None = None) -> Scorer:
        """Load the bundle in a folder, or a model from a shelf.

        Args:
            source: A bundle's folder, or a shelf.
            model: The model's name on the shelf; by default the shelf's default model.

        Raises:
            InputError: The model is not on the shelf.
            BundleError: As in the constructor.
        """
        folder = Path(source)
        if (folder / bundles.MANIFEST).exists():
            return cls(bundles.read(folder), model)
        state = read_state(folder)
        name = model or state.default or next(iter(state.models), None)
        if name not in state.models:
            raise InputError(
                f"The model '{name}' is not on the shelf {folder}."
                if name
                else f"The shelf {folder} is empty, and is not a bundle either.",
                field="model",
                expected=", ".join(state.models) or "a shelf with a model",
            )
        entry = state.models[name]
        return cls(open_bundle(folder, entry), name, entry.version)

    def outputs(self, rows: Sequence[Row]) -> Outputs:
        """The model's outputs for checked rows.

        Raises:
            InputError: A number does not fit into the model's type, or an answer is not finite.
        """
        encoded = self._tensor_encoder.encode(rows)
        raw = self._runtime.run(pad_single_row(encoded.arrays, encoded.count, self._pad))
        outputs = Outputs(*raw).part(0, encoded.count)
        outputs.check(0, encoded.count)
        return outputs

    def score(self, rows: Sequence[Row]) -> list[RowPrediction]:
        """Predict checked rows, one prediction per row."""
        outputs = self.outputs(rows)
        labels = self.signature.labels
        if outputs.labels is None:
            return [RowPrediction(value) for value in outputs.value_list]
        predictions: list[Label] = [labels[index] for index in outputs.label_list]
        if outputs.probabilities is None:
            return [RowPrediction(label) for label in predictions]
        pairs = zip(predictions, outputs.probability_rows, strict=True)
        return [RowPrediction(label, tuple(row)) for label, row in pairs]

    def answer(self, body: bytes) -> bytes:
        """Answer a request body as the server's `/predict` does, in every form that it accepts.

        Raises:
            InputError: The body does not fit the signature; names the field.
        """
        row = self._decoder.one(body)
        rows, many = ([row], False) if row is not None else read_rows(self.signature, body)
        outputs, call_id = self.outputs(rows), self._next_id()
        if many:
            return self._encoder.many(outputs, 0, len(rows), call_id)
        return self._encoder.one(outputs, 0, call_id)

    @cached_property
    def _decoder(self) -> RowDecoder:
        return RowDecoder(self.signature)

    @cached_property
    def _encoder(self) -> AnswerEncoder:
        return AnswerEncoder(self.signature, self.name, self.version)
