"""`tidemill predict`: score a CSV file."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli import terminal
from tidemill.cli.command_help import command_app, notes
from tidemill.cli.context import HomeOption, JsonOption, TrackingOption, open_settings
from tidemill.cli.control_plane import open_registry
from tidemill.cli.row_files import open_rows
from tidemill.cli.scoring import score_file
from tidemill.errors import InputError, UnavailableError
from tidemill.serving.model.scorer import Scorer
from tidemill.serving.shelf.shelf import ShelfEntry, install_bundle, open_bundle, read_state
from tidemill.settings import Settings
from tidemill.stores.mlflow.versions import parse_reference

log = logging.getLogger(__name__)
app = command_app()


@app.command(epilog=notes("output, rows, refused"))
def predict(
    model: Annotated[str, typer.Argument(help="A registered model, or models:/name@alias.")],
    rows: Annotated[Path, typer.Argument(help="A CSV file with the model's columns by name.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The CSV file to write.")],
    keep_going: Annotated[
        bool, typer.Option(help="Write refused rows with their error instead of stopping.")
    ] = False,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a CSV file with a model, without a server.

    The output has the input's columns, then the prediction, the confidence and a probability for
    every label. Columns that the model does not use are copied; if one has the name of an added
    column, the added one is prefixed with "model_". An empty cell is a missing value.
    The encoding and the separator are detected; unless the separator is a comma, 1,5 is a number
    too. The output is UTF-8, separated by commas.

    Examples:

      tidemill predict churn rows.csv -o scored.csv

      tidemill predict models:/churn/3 rows.csv -o scored.csv --keep-going
    """
    settings = open_settings(home, tracking_uri)
    _check_files(rows, output)
    scorer = _open_scorer(settings, model)
    draft = output.with_name(f".{output.name}.part")
    try:
        with open_rows(rows) as source, draft.open("w", newline="", encoding="utf-8") as out:
            done, refused = score_file(scorer, source, out, rows.stat().st_size, keep_going)
        draft.replace(output)
    except OSError as error:
        raise InputError(
            f"{error.filename or output}: {error.strerror}.", field="output"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    if as_json:
        terminal.print_json({"output": output, "rows": done, "refused": refused})
        return
    terminal.out.print(f"Wrote {done} rows to {output}.", markup=False, soft_wrap=True)
    if refused:
        terminal.err.print(f"{refused} of them were refused; see the last column.")


def _check_files(rows: Path, output: Path) -> None:
    if not rows.is_file():
        raise InputError(f"There is no file {rows}.", field="rows")
    if output.is_dir():
        raise InputError(f"{output} is a folder.", field="output", expected="a file to write")
    if not output.parent.is_dir():
        raise InputError(
            f"There is no folder {output.parent}.", field="output", expected="a file to write"
        )


def _open_scorer(settings: Settings, reference: str) -> Scorer:
    name, entry = _install(settings, reference)
    return Scorer(open_bundle(settings.shelf, entry), name, entry.version)


def _install(settings: Settings, reference: str) -> tuple[str, ShelfEntry]:
    """The model's name and its bundle on the shelf, downloaded if it is missing.

    While MLflow is down, the version that is on the shelf is used.

    Raises:
        NotFoundError: The model or version does not exist, or has no bundle.
        BundleError: The bundle is missing or damaged.
        UnavailableError: MLflow is down, and the model is not on the shelf.
    """
    name = parse_reference(reference).name
    try:
        registry = open_registry(settings)
        version = registry.resolve(reference, stage=settings.model_stage)
        with tempfile.TemporaryDirectory() as scratch:
            bundle = registry.fetch_bundle(version, Path(scratch))
            return name, install_bundle(
                settings.shelf, name, version.number, bundle.path, bundle.digest
            )
    except UnavailableError:
        state = read_state(settings.shelf)
        if name not in state.models:
            raise
        log.warning("MLflow is down; using the version on the shelf")
        return name, state.models[name]
