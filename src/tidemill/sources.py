"""Where a project's rows come from: a CSV file, a data set of scikit-learn, or openml.org.

    data=csv("data/churn.csv", sep=";")
    data=sklearn_dataset("wine")
    data=openml("mnist_784")

Importing this module loads neither pandas nor scikit-learn; `load()` of a source does.
"""

from __future__ import annotations

import inspect
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.errors import DataError, ProjectError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Source:
    """Where a project's rows come from.

    A source of your own is a name and a function:

        Source("warehouse:churn", lambda: pd.read_sql("select * from churn", connection))

    Attributes:
        describe: A short description, recorded in the tags of every run. A source that only knows
            it after loading sets `frame.attrs["source"]`, which replaces this text.
        load: Returns the rows as a DataFrame.
        at: Returns the same source with relative paths starting at a folder; None if it has none.
    """

    describe: str
    load: Callable[[], pd.DataFrame]
    at: Callable[[Path], Source] | None = None


def csv(path: str | Path, *, make: Callable[[Path], None] | None = None, **options: Any) -> Source:
    """The rows of a CSV file.

        csv("data/churn.csv", sep=";", decimal=",")

    `load()` raises DataError if the file does not exist, cannot be read as CSV, or has two columns
    of the same name.

    Args:
        path: A relative path starts at the project file's folder.
        make: Called with the path to write the file if it does not exist.
        options: Passed to `pandas.read_csv`.
    """

    def source(file: Path) -> Source:
        def load() -> pd.DataFrame:
            if make is not None and not file.exists():
                _write_atomically(file, make)
            return _read_csv(file, options)

        return Source(f"csv:{path}", load, at=lambda folder: source(folder / path))

    return source(Path(path))


def _write_atomically(file: Path, make: Callable[[Path], None]) -> None:
    """Write to a temporary file and rename it, so that no process reads an incomplete file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    make(part)
    part.replace(file)


def _read_csv(file: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    if not file.is_file():
        raise DataError(
            f"The data file {file} does not exist.",
            field="data",
            remedy="Copy it there, or change the path in the project file.",
        )
    try:
        with warnings.catch_warnings():
            # For lines longer than the header, pandas makes an index of the first fields or drops
            # the last ones.
            warnings.filterwarnings("error", "Length of header", pd.errors.ParserWarning)
            frame: pd.DataFrame = pd.read_csv(file, **{"index_col": False, **options})
    except (ValueError, OSError, pd.errors.ParserWarning) as error:  # parsers raise ValueError
        why = str(error).strip().rstrip(".")
        raise DataError(f"{file} cannot be read as CSV: {why}.", field="data") from error
    _refuse_repeated_names(file, frame, options)
    return frame


#: Options of `pandas.read_csv` that are needed to read the header.
_FORMAT_OPTIONS = frozenset(
    {"sep", "delimiter", "encoding", "skiprows", "quotechar", "compression"}
)


def _refuse_repeated_names(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Raise if the header repeats a name: pandas would rename the second `x` to `x.1`."""
    import pandas as pd

    numbered = [name for name in map(str, frame.columns) if re.search(r"\.\d+$", name)]
    if not numbered or {"names", "header"} & options.keys():
        return
    written = {name: options[name] for name in _FORMAT_OPTIONS & options.keys()}
    first = pd.read_csv(file, header=None, nrows=1, dtype=str, **written)
    names = first.iloc[0].dropna().tolist()
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DataError(
            f"{file} has several columns named {', '.join(map(repr, repeated))}.",
            field=repeated[0],
            remedy="Rename them in the first line of the file, or delete all but one.",
        )


def sklearn_dataset(name: str) -> Source:
    """One of scikit-learn's data sets: "breast_cancer", "california_housing", "wine", ...

    The target column is `target` for most, with class names if there are any, and `MedHouseVal` for
    California Housing. Data sets that are not part of scikit-learn are downloaded once into its
    data home.

    `load()` raises ProjectError if there is no such table, and DataError if it cannot be
    downloaded.
    """

    def load() -> pd.DataFrame:
        loaded = _fetch(f"scikit-learn's '{name}'", _loader(name), as_frame=True)
        frame: pd.DataFrame = loaded.frame.copy()
        labels = getattr(loaded, "target_names", None)
        if labels is not None and "target" in frame:
            names = list(getattr(labels, "tolist", lambda: labels)())
            frame["target"] = [names[int(i)] for i in loaded.target]
        return frame

    return Source(f"scikit-learn:{name}", load)


def _loader(name: str) -> Callable[..., Any]:
    from sklearn import datasets

    for function in (f"load_{name}", f"fetch_{name}"):
        loader: Callable[..., Any] | None = getattr(datasets, function, None)
        if loader is not None and "as_frame" in inspect.signature(loader).parameters:
            return loader
    raise ProjectError(f"scikit-learn has no data set '{name}'.", field="data")


def openml(name: str, version: int | str = 1) -> Source:
    """A data set of openml.org, downloaded once into scikit-learn's data home.

    Nominal columns are texts, or integers if they are written as such. `load()` raises DataError if
    the data set cannot be downloaded.

    Args:
        version: The version of the data set, or "active" for the latest active one.
    """

    def load() -> pd.DataFrame:
        from sklearn.datasets import fetch_openml

        # Let pandas infer the types. If told which columns are nominal, some versions convert them
        # to numbers, and scikit-learn then fails and removes the file from its data home.
        options: dict[str, Any] = {"parser": "pandas", "read_csv_kwargs": {"dtype": None}}
        what = f"OpenML's '{name}'"
        loaded = _fetch(what, fetch_openml, name=name, version=version, as_frame=True, **options)
        frame: pd.DataFrame = loaded.frame
        quoted = r"^'(.*)'$"
        texts = {str(n): c.str.replace(quoted, r"\1", regex=True) for n, c in _texts(frame).items()}
        return frame.assign(**texts)

    return Source(f"openml:{name}", load)


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.select_dtypes(include=["object", "string"])


def _fetch(what: str, loader: Callable[..., Any], **options: Any) -> Any:
    try:
        with _socket_timeout(10.0), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error|Retry downloading")
            return loader(**options, n_retries=1) if _retries(loader) else loader(**options)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{what} is not in scikit-learn's data home and could not be downloaded: {error}.",
            field="data",
            remedy="Allow the download once, or set SCIKIT_LEARN_DATA to a folder with the data.",
        ) from error


def _retries(loader: Callable[..., Any]) -> bool:
    return "n_retries" in inspect.signature(loader).parameters


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Set a default timeout: scikit-learn's downloads have none and could hang forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
