"""Native answers as bytes: one template for each version, filled with numbers."""

from __future__ import annotations

import msgspec
import numpy as np

from tidemill.serving.outputs import Outputs
from tidemill.signature import Label, Signature


class Encoder:
    """Writes the native answers of one version.

    Numbers of a single-precision model are written with seven digits, which is what they hold;
    those of a double-precision one as the shortest text that reads back the same.
    """

    def __init__(self, signature: Signature, model: str, version: str) -> None:
        self._labels = [_json(label) for label in signature.labels]
        self._keys = [_json(label_text(label)) for label in signature.labels]
        self._end = f',"model":{_json(model)},"version":{_json(version)},"id":"%s"}}'.replace(
            "%", "%%"
        ).replace("%%s", "%s")
        self._forms = {
            np.dtype(np.float32): self._form("%.7g"),
            np.dtype(np.float64): self._form("%r"),
        }

    def one(self, outputs: Outputs, place: int, call_id: str) -> bytes:
        """The answer to one row."""
        return (self._row(outputs, place) + self._end % call_id).encode()

    def many(self, outputs: Outputs, start: int, stop: int, call_id: str) -> bytes:
        """The answers to the rows `start` to `stop`, each with an id of its own."""
        rows = [
            f'{self._row(outputs, place)},"id":"{row_id}"}}'
            for place, row_id in zip(
                range(start, stop), row_ids(call_id, stop - start), strict=True
            )
        ]
        return ('{"predictions":[' + ",".join(rows) + "]" + self._end % call_id).encode()

    def _row(self, outputs: Outputs, place: int) -> str:
        """`{"prediction":...` without its end."""
        if outputs.labels is None:
            assert outputs.values is not None
            form = "%.7g" if outputs.values.dtype == np.float32 else "%r"
            return '{"prediction":' + form % outputs.value_list[place]
        index = outputs.label_list[place]
        if outputs.probabilities is None:
            return '{"prediction":' + self._labels[index]
        row = outputs.probability_rows[place]
        form = self._forms[outputs.probabilities.dtype]
        return form % (self._labels[index], row[index], *row)

    def _form(self, number: str) -> str:
        pairs = ",".join(key.replace("%", "%%") + ":" + number for key in self._keys)
        return f'{{"prediction":%s,"confidence":{number},"probabilities":{{{pairs}}}'


def label_text(label: Label) -> str:
    """A label as a JSON object's key."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label)


def row_ids(call_id: str, rows: int) -> list[str]:
    """The prediction id of each row: the call's own for one, `<id>-<i>` in a batch."""
    return [call_id] if rows == 1 else [f"{call_id}-{i}" for i in range(rows)]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
