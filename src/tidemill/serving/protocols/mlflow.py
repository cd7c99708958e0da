"""MLflow's scoring protocol: a drop-in for `mlflow models serve`, for many models on one port.

POST /invocations (the default model) and /invocations/{name} accept JSON with exactly one of
`dataframe_split`, `dataframe_records`, `instances` or `inputs`, CSV with a header, or Parquet (if
pyarrow is installed), and return `{"predictions": [...]}`. As in MLflow, columns that the model
does not have are ignored, and `params` is accepted and has no effect on models without parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.errors import InputError, MalformedError, TidemillError
from tidemill.serving.codec.body_limits import BodyLimits
from tidemill.serving.codec.outputs import Outputs
from tidemill.serving.codec.request_parsing import read_json
from tidemill.serving.codec.table_files import csv_records, parquet_columns
from tidemill.serving.codec.tensor_encoder import EncodedRows
from tidemill.serving.codec.values import parse_cell
from tidemill.serving.http.routes import (
    JSON,
    Request,
    Response,
    Route,
    ServingProtocol,
    json_response,
)
from tidemill.serving.model.predictor import Predictor
from tidemill.serving.protocols import mlflow_schema
from tidemill.signature import Signature, Tensor

if TYPE_CHECKING:
    from tidemill.serving.model.pool import ModelPool

Columns = Mapping[str, Sequence[Any] | npt.NDArray[Any]]
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CSV, PARQUET = b"text/csv", b"application/vnd.apache.parquet"
CODES = {
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def protocol(models: ModelPool) -> ServingProtocol:
    """The routes of the protocol and their description."""
    scoring = ScoringHandlers(models)
    routes = [
        Route("GET", "/ping", scoring.ping, problem=refusal),
        Route("GET", "/version", scoring.version, problem=refusal),
    ]
    for path in ("/invocations", "/invocations/{name}"):
        media = frozenset({JSON, CSV, PARQUET})
        routes.append(
            Route(
                "POST", path, scoring.invoke,
                scope="predict", problem=refusal, media=media, fast=True,
            )
        )  # fmt: skip
    return ServingProtocol(
        "mlflow", routes, lambda: mlflow_schema.paths(models), mlflow_schema.schemas
    )


def refusal(error: TidemillError) -> Response:
    """An error in MLflow's format; every error in the input has status 400."""
    status = 400 if error.status in (409, 422) else error.status
    code = CODES.get(status, "BAD_REQUEST")
    return json_response({"error_code": code, "message": str(error)}, status)


class ScoringHandlers:
    """Handlers of the protocol."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def ping(self, request: Request) -> Response:
        """An empty 200 if models are in service, 404 if not."""
        ready = self._models.ready.is_set() and bool(self._models.predictors)
        return Response(b"\n", 200 if ready else 404)

    def version(self, request: Request) -> Response:
        """The MLflow version that the default model was trained with, or else Tidemill's."""
        default = self._models.predictors.get(self._models.default or "")
        made_with = default.bundle.manifest.versions if default else {}
        text = made_with.get("mlflow") or f"tidemill {made_with.get('tidemill', '')}".strip()
        return Response(text.encode(), content_type=b"text/html; charset=utf-8")

    def invoke(self, request: Request) -> None:
        """Predict."""
        predictor = self._models.pick(request)
        media = (request.head.header(b"content-type") or JSON).split(b";")[0].strip().lower()

        def finish(request: Request, outputs: Outputs, start: int, stop: int) -> Response:
            labels = predictor.signature.labels
            return json_response({"predictions": outputs.predictions(labels, start, stop)})

        predictor.submit_body(request, READERS[media], finish, may_wait=media == PARQUET)


def read_body(predictor: Predictor, body: bytes) -> EncodedRows:
    """The rows of a JSON body.

    Raises:
        MalformedError: The body is not JSON, or has none or several of the four formats.
        InputError: The rows do not fit the signature; names the column.
    """
    predictor.limits.check_json(body)
    if (rows := _fast_rows(predictor, body)) is not None:
        return rows
    payload = read_json(body)
    if not isinstance(payload, dict):
        raise MalformedError(
            "The body is not a JSON object.", expected=f"one of {', '.join(FORMATS)}"
        )
    given = [name for name in FORMATS if name in payload]
    unknown = [key for key in payload if key not in (*FORMATS, "params")]
    if len(given) != 1 or unknown:
        raise MalformedError(
            f"The body holds {_listed(payload) or 'nothing'}.",
            expected=f"exactly one of {', '.join(FORMATS)}, and optionally params",
        )
    if not isinstance(payload.get("params") or {}, dict):
        raise InputError("'params' is not an object.", field="params", expected="an object")
    signature = predictor.signature
    if signature.tensor is not None:
        return predictor.encoder.encode_tensor(
            _tensor(signature.tensor, given[0], payload[given[0]])
        )
    return columns_rows(predictor, _columns(predictor, given[0], payload[given[0]]))


def _fast_rows(predictor: Predictor, body: bytes) -> EncodedRows | None:
    """The rows of a body in one of the usual formats, parsed several times faster; None for any
    other body, and for any body with an error."""
    split = body.startswith(b'{"dataframe_split"')
    found = predictor.decoder.split(body) if split else predictor.decoder.many(body)
    if found is None:
        return None
    predictor.limits.check(len(found), predictor.encoder.width)
    return predictor.encoder.encode(found)


def read_csv(predictor: Predictor, body: bytes) -> EncodedRows:
    """The rows of a CSV file with a header. Only the model's columns are kept."""
    header, records = csv_records(body, predictor.limits)
    signature = predictor.signature
    if signature.tensor is not None:
        table = [[parse_cell("number", cell) for cell in record] for record in records]
        return predictor.encoder.encode_tensor(_array(signature.tensor, table))
    places = {name: i for i, name in enumerate(header)}
    return columns_rows(
        predictor,
        {
            column.name: [
                parse_cell(column.kind, record[places[column.name]], column.categories)
                for record in records
            ]
            for column in signature.columns
            if column.name in places and records
        },
    )


def read_parquet(predictor: Predictor, body: bytes) -> EncodedRows:
    """The rows of a Parquet file."""
    columns = parquet_columns(predictor.signature, predictor.limits, body)
    if predictor.signature.tensor is not None:
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        return predictor.encoder.encode_tensor(_array(predictor.signature.tensor, rows))
    return columns_rows(predictor, columns)


READERS = {JSON: read_body, b"text/json": read_body, CSV: read_csv, PARQUET: read_parquet}


def columns_rows(predictor: Predictor, columns: Columns) -> EncodedRows:
    """Checked rows from named columns; columns that the model does not have are ignored."""
    names = predictor.signature.names
    if missing := [name for name in names if name not in columns]:
        raise InputError(
            f"Missing: {', '.join(repr(name) for name in missing[:10])}.",
            field=missing[0],
            expected=f"the columns {', '.join(names[:30])}",
        )
    if not len(columns[names[0]]):
        raise InputError("There are no rows.", expected="at least one row")
    return predictor.encoder.encode_columns({name: columns[name] for name in names})


def _columns(predictor: Predictor, name: str, given: Any) -> Columns:
    """The model's columns of the body, unchecked; others are ignored."""
    signature, limits = predictor.signature, predictor.limits
    if name == "dataframe_split":
        return _split(signature, limits, given)
    if name == "inputs" and isinstance(given, dict):
        return _by_column(signature, limits, given)
    return _by_row(signature, limits, name, given)


def _split(signature: Signature, limits: BodyLimits, given: Any) -> Columns:
    """pandas' split orientation; without `columns`, in the order of the signature."""
    if not isinstance(given, dict) or not isinstance(given.get("data"), list):
        raise MalformedError(
            '\'dataframe_split\' is not {"columns": [...], "data": [[...]]}.',
            field="dataframe_split",
        )
    names = given.get("columns", list(signature.names))
    rows = given["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedError("'columns' is not a list of names.", field="columns")
    limits.check(len(rows), len(names), field="dataframe_split")
    return _transposed(signature, names, rows)


def _by_column(signature: Signature, limits: BodyLimits, given: dict[str, Any]) -> Columns:
    columns = {n: values if isinstance(values, list) else [values] for n, values in given.items()}
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise InputError("The columns have different lengths.", field="inputs")
    limits.check(max(counts, default=0), len(columns), field="inputs")
    return {
        name: [_scalar(value) for value in columns[name]]
        for name in signature.names
        if name in columns
    }


def _by_row(signature: Signature, limits: BodyLimits, name: str, given: Any) -> Columns:
    if not isinstance(given, list) or not given:
        raise InputError(
            f"'{name}' is not a list of rows.", field=name, expected="at least one row"
        )
    limits.check(len(given), len(signature.names), field=name)
    if all(isinstance(row, dict) for row in given):
        present = {column for row in given for column in row}
        return {
            column: [_scalar(row.get(column)) for row in given]
            for column in signature.names
            if column in present
        }
    if name == "dataframe_records":
        raise InputError(f"A row of '{name}' is not an object.", field=name, expected="objects")
    return _transposed(signature, list(signature.names), given)


def _transposed(signature: Signature, names: list[str], rows: list[Any]) -> Columns:
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise InputError(
                f"Row {index} does not have {len(names)} values.",
                expected=f"{len(names)} values: {_listed(names)}",
            )
    wanted = set(signature.names)
    return {name: [row[i] for row in rows] for i, name in enumerate(names) if name in wanted}


def _listed(names: Iterable[str]) -> str:
    """The first names, cut: the client may have sent any number of any length."""
    return ", ".join(name[:40] for name in itertools.islice(names, 10))


def _scalar(value: Any) -> Any:
    """MLflow's clients send a column of one-element tensors as one-element lists."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _tensor(tensor: Tensor, name: str, given: Any) -> npt.NDArray[Any]:
    if name == "dataframe_split" and isinstance(given, dict):
        given = given.get("data")
    if isinstance(given, dict):
        if set(given) != {tensor.name}:
            raise InputError(
                f"'{name}' holds {_listed(given)}.",
                field=name,
                expected=f"'{tensor.name}' alone",
            )
        given = given[tensor.name]
    if isinstance(given, list) and given and all(isinstance(row, dict) for row in given):
        given = [row.get(tensor.name, list(row.values())) for row in given]
    return _array(tensor, given)


def _array(tensor: Tensor, given: Any) -> npt.NDArray[Any]:
    try:
        array = np.array(msgspec.convert(given, list[Any]), dtype=np.float64)
    except (ValueError, TypeError, OverflowError, msgspec.ValidationError) as error:
        raise InputError(
            f"'{tensor.name}' is not a rectangular array of numbers.",
            field=tensor.name,
            expected=f"[rows, {', '.join(map(str, tensor.shape))}]",
        ) from error
    return array
