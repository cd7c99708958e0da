"""A bundle as a plain function: rows in, answers out, on the caller's thread.

The same checks and the same answers as the server's, for programs that have one of their own (a
Flask app) or none (scoring a file). Nothing is recorded, cached or counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tidemill import bundle
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
from tidemill.serving.shelf.shelf import open_bundle, read_state
from tidemill.signature import Label


class Scorer:
    """One version of a model, loaded and checked against its own example. Safe for threads.

    Raises:
        BundleError: The bundle is not whole, cannot be loaded, or answers otherwise.
    """

    def __init__(self, held: Bundle, name: str | None = None, version: str = "-") -> None:
        from tidemill.serving.model.runtime import load_runtime

        self.bundle = held
        self.name = name or held.manifest.model
        self.version = version
        self.signature = held.signature
        self._runtime = load_runtime(held)
        self._pad = smoke_test(held, self._runtime).pad
        self._tensor_encoder = TensorEncoder(held.signature, held.manifest.inputs)
        self._next_id = id_source()

    @classmethod
    def open(cls, place: Path | str, model: str | None = None) -> Scorer:
        """The bundle in a folder, or a model on a shelf (its default when none is named).

        Raises:
            InputError: The shelf does not hold that model.
        """
        folder = Path(place)
        if (folder / bundle.MANIFEST).exists():
            return cls(bundle.read(folder), model)
        state = read_state(folder)
        name = model or state.default or next(iter(state.models), None)
        if name not in state.models:
            held = ", ".join(state.models) or "no model"
            raise InputError(
                f"The shelf {folder} holds {held}, not '{name}'.", field="model", expected=held
            )
        placed = state.models[name]
        return cls(open_bundle(folder, placed), name, placed.version)

    def outputs(self, rows: Sequence[Row]) -> Outputs:
        """The model's outputs for checked rows.

        Raises:
            InputError: A number is beyond what the model's type holds.
        """
        packed = self._tensor_encoder.encode(rows)
        found = self._runtime.run(pad_single_row(packed.arrays, packed.count, self._pad))
        outputs = Outputs(*found).part(0, packed.count)
        outputs.check(0, packed.count)
        return outputs

    def score(self, rows: Sequence[Row]) -> list[RowPrediction]:
        """One answer a row, for checked rows."""
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
        """The server's answer to a request's body, in every form that `/predict` takes.

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
