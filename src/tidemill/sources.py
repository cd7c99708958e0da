"""Where a project's rows come from: a CSV file, scikit-learn's own data sets, or openml.org.

Importing this module loads neither pandas nor scikit-learn; calling `load()` of a source does.
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
    """Where rows come from: `load()` gives them, `describe` says it in the run's tags.

    A source that only knows while loading where its rows came from says so in the frame:
    `frame.attrs["source"]` then takes the place of `describe`.
    """

    describe: str
    load: Callable[[], pd.DataFrame]
    at: Callable[[Path], Source] | None = None  # the same, with paths relative to a folder


def csv(path: str | Path, *, make: Callable[[Path], None] | None = None, **options: Any) -> Source:
    """Rows of a CSV file; a relative path starts at the project file's folder.

    Args:
        make: Called with the path when there is no such file yet, to write it.
        options: Go to `pandas.read_csv`.
    """

    def source(file: Path) -> Source:
        def load() -> pd.DataFrame:
            if make is not None and not file.exists():
                _write_whole(file, make)
            return _read_csv(file, options)

        return Source(f"csv:{path}", load, at=lambda folder: source(folder / path))

    return source(Path(path))


def _write_whole(file: Path, make: Callable[[Path], None]) -> None:
    """Write beside the file and rename, so that another process never reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    make(part)
    part.replace(file)


def _read_csv(file: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    if not file.is_file():
        raise DataError(
            f"There is no data file {file}.",
            field="data",
            remedy="Put it there, or change the path in the project file.",
        )
    try:
        with warnings.catch_warnings():
            # Of lines longer than the header pandas makes an index, or cuts them.
            warnings.filterwarnings("error", "Length of header", pd.errors.ParserWarning)
            frame: pd.DataFrame = pd.read_csv(file, **{"index_col": False, **options})
    except (ValueError, OSError, pd.errors.ParserWarning) as error:  # parsers raise ValueErrors
        why = str(error).strip().rstrip(".")
        raise DataError(f"{file} cannot be read as CSV: {why}.", field="data") from error
    _refuse_repeated_names(file, frame, options)
    return frame


#: Options of `pandas.read_csv` that say how the file is written, not what to make of it.
_WRITTEN = frozenset({"sep", "delimiter", "encoding", "skiprows", "quotechar", "compression"})


def _refuse_repeated_names(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Pandas numbers the columns of one name; only the file still tells `x.1` from a second `x`."""
    import pandas as pd

    numbered = [name for name in map(str, frame.columns) if re.search(r"\.\d+$", name)]
    if not numbered or {"names", "header"} & options.keys():
        return
    written = {name: options[name] for name in _WRITTEN & options.keys()}
    first = pd.read_csv(file, header=None, nrows=1, dtype=str, **written)
    names = first.iloc[0].dropna().tolist()
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{file} has several columns of the name {', '.join(map(repr, twice))}.",
            field=twice[0],
            remedy="Rename them in the file's first line, or leave out all but one.",
        )


def sklearn_dataset(name: str) -> Source:
    """One of scikit-learn's own data sets: "breast_cancer", "california_housing", "wine", ...

    The target is the column scikit-learn calls so: `target` for most, holding class names where
    there are any; `MedHouseVal` for California Housing.
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
    raise ProjectError(f"scikit-learn has no table '{name}'.", field="data")


def openml(name: str, version: int | str = 1) -> Source:
    """A data set of openml.org by name, kept in scikit-learn's data home after the first load.

    Nominal columns are texts, or whole numbers where they are written as such.
    """

    def load() -> pd.DataFrame:
        from sklearn.datasets import fetch_openml

        # Types are left to pandas. Told which columns are nominal, some versions of it make
        # numbers of them that scikit-learn fails on, after removing the file from its data home.
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
            f"{what} is not in scikit-learn's data home and could not be fetched: {error}.",
            field="data",
            remedy="Allow the download once, or point SCIKIT_LEARN_DATA at a folder that has it.",
        ) from error


def _retries(loader: Callable[..., Any]) -> bool:
    return "n_retries" in inspect.signature(loader).parameters


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Scikit-learn's downloads take no timeout: without this a silent network hangs them."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
