"""How a CSV file is written is inferred from its cells, and the same table is read from it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import DataError
from tidemill.steps.data.csv_dialect import csv_options, read_table

ROWS = 40


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def read(folder: Path, text: str, **given: Any) -> pd.DataFrame:
    return read_table(write(folder / "t.csv", text), given)[0]


def lines(*columns: list[str], sep: str = ",") -> str:
    return "".join(sep.join(row) + "\n" for row in zip(*columns, strict=True))


WHOLE = [str(i % 7) for i in range(ROWS)]
WORDS = ["x", "y"] * (ROWS // 2)


@pytest.mark.parametrize(
    ("numbers", "sep", "first"),
    [
        (["7", "10,25"], ";", 7.0),
        (["1.234,5", "2,25"], ";", 1234.5),
        (["1,234", "1,5"], ";", 1.234),
        (["1.5", "2"], ";", 1.5),
        (['"1,234"', "7"], ",", 1234.0),
        (['"1,234,567.5"', "7"], ",", 1234567.5),
        (['"1,5"', "7"], ",", 1.5),
        (["-7,5", "1e3"], ";", -7.5),
        ([",5", "7"], "\t", 0.5),
    ],
)
def test_decimal_marks_and_groups(
    tmp_path: Path, numbers: list[str], sep: str, first: float
) -> None:
    frame = read(tmp_path, lines(["n", *numbers * 20], ["w", *WORDS], sep=sep))
    assert frame["n"].iloc[0] == first
    assert pd.api.types.is_numeric_dtype(frame["n"])


@pytest.mark.parametrize("mark", ["?", " ", "-", "--", "NA", "n/a", "None", "null", "missing", "."])
def test_a_mark_among_numbers_is_a_missing_value_in_every_column(tmp_path: Path, mark: str) -> None:
    numbers, words = ["n", mark, *WHOLE[1:]], ["w", "x", mark, *WORDS[2:]]
    frame = read(tmp_path, lines(numbers, words))
    assert pd.api.types.is_numeric_dtype(frame["n"])
    assert frame["n"].isna().sum() == 1
    assert frame["w"].isna().sum() == 1


@pytest.mark.parametrize("word", ["None", "NA", "null", "N/A"])
def test_a_class_may_have_a_name_that_looks_missing(tmp_path: Path, word: str) -> None:
    frame = read(tmp_path, lines(["n", "", *WHOLE[1:]], ["w", word, *WORDS[1:-1], ""]))
    assert frame["w"].iloc[0] == word
    assert (frame["w"].isna().sum(), frame["n"].isna().sum()) == (1, 1)


def test_a_word_among_numbers_that_is_no_mark_keeps_the_column_text(tmp_path: Path) -> None:
    frame = read(tmp_path, lines(["n", "many", *WHOLE[1:]], ["w", *WORDS]))
    assert not pd.api.types.is_numeric_dtype(frame["n"])


@pytest.mark.parametrize(
    "columns",
    [
        (WHOLE, WORDS),
        (WORDS, WORDS[::-1]),
        (["?", *WHOLE[1:]], WORDS, WHOLE),
        ([f"{i}.5" for i in range(ROWS)], [f"id-{i}" for i in range(ROWS)], WORDS),
        (WHOLE, WHOLE),
    ],
    ids=range(5),
)
def test_a_file_without_names_is_refused_until_they_are_given(
    tmp_path: Path, columns: tuple[list[str], ...]
) -> None:
    text = lines(*columns)
    with pytest.raises(DataError, match="no line of column names"):
        read(tmp_path, text)
    frame = read(tmp_path, text, header=None)
    assert list(frame) == [f"c{i + 1}" for i in range(len(columns))]
    assert len(frame) == ROWS
    names = [f"n{i}" for i in range(len(columns))]
    assert list(read(tmp_path, text, names=names)) == names
    with pytest.raises(DataError, match="there are 1 names"):
        read(tmp_path, text, names=["a"])


@pytest.mark.parametrize(
    "header", [["country", "2019"], ["a", "b"], ["1st", "2nd"], ["x1", "y"], ["n", "no"]]
)
def test_names_are_not_taken_for_a_row(tmp_path: Path, header: list[str]) -> None:
    frame = read(tmp_path, lines([header[0], *WORDS], [header[1], *WHOLE]))
    assert list(frame) == header


def test_comment_lines_spaces_and_single_quotes(tmp_path: Path) -> None:
    text = "# made by hand, 2026\n#\nn, w\n" + "".join(
        f"{n}, '{w}'\n" for n, w in zip(WHOLE, WORDS, strict=True)
    )
    frame = read(tmp_path, text)
    assert list(frame) == ["n", "w"]
    assert set(frame["w"]) == {"x", "y"}


def test_a_separator_inside_quotes_separates_nothing(tmp_path: Path) -> None:
    text = '"a; b; c; d",w\n' + "".join(f'"1; 2; 3",{w}\n' for w in WORDS)
    assert list(read(tmp_path, text)) == ["a; b; c; d", "w"]


@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis", "cp1252", "utf-16"])
def test_encodings_are_recognized(tmp_path: Path, encoding: str) -> None:
    texts = {
        "gb18030": ["城市人口的增长速度很快", "我们需要更多的数据来训练模型"],
        "shift_jis": ["これは日本語のテキストです", "データを読み込みます"],
        "cp1252": ["Größe für Züge", "Müller & Söhne"],
        "utf-16": ["Größe", "城市"],
    }[encoding]
    text = lines(["n", *WHOLE], ["w", *texts * 20])
    write(tmp_path / "t.csv", text, encoding)
    assert set(read_table(tmp_path / "t.csv")[0]["w"]) == set(texts)


def test_a_broken_byte_does_not_change_the_encoding(tmp_path: Path) -> None:
    text = lines(["n", *WHOLE], ["w", *["Größe", "Länge"] * 20]).encode()
    (tmp_path / "t.csv").write_bytes(text + b"3,\xff\n")
    frame, options = read_table(tmp_path / "t.csv")
    assert options["encoding_errors"] == "replace"
    assert set(frame["w"]) == {"Größe", "Länge", "\ufffd"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 2)), min_size=8, max_size=30),
    words=st.text("abc ,;'äß|", max_size=6).map(lambda text: f"k{text}k"),
    sep=st.sampled_from([",", ";", "\t", "|"]),
    comma=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    comment=st.booleans(),
)
def test_a_table_is_read_as_it_was_written(
    tmp_path: Path,
    numbers: list[float],
    words: str,
    sep: str,
    comma: bool,
    quoting: Any,
    encoding: str,
    comment: bool,
) -> None:
    comma = comma and sep != ","
    with (tmp_path / "t.csv").open("w", newline="", encoding=encoding) as file:
        file.write("# a comment\n" * comment)
        rows = csv.writer(file, delimiter=sep, quoting=quoting)
        rows.writerow(["number", "first word", "second"])
        for place, number in enumerate(numbers):
            shown = str(number).replace(".", ",") if comma else str(number)
            rows.writerow([shown, words, "yes" if place % 2 else "no"])
    frame = read_table(tmp_path / "t.csv")[0]
    assert frame["number"].tolist() == numbers
    assert set(frame["first word"]) == {words}


def test_an_ordinary_file_needs_no_options(tmp_path: Path) -> None:
    assert csv_options(write(tmp_path / "t.csv", lines(["n", *WHOLE], ["w", *WORDS]))) == {}
