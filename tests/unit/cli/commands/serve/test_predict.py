from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tidemill import Candidate, Project, sklearn_dataset
from tidemill.cli.commands.serve.predict import predict
from tidemill.cli.row_files import open_rows, read_cell
from tidemill.cli.scoring import score_file
from tidemill.errors import InputError
from tidemill.serving.codec.values import MISSING
from tidemill.serving.model.scorer import Scorer
from tidemill.steps.data.preprocessing import build_pipeline
from tidemill.steps.data.signature_inference import infer_signature
from tidemill.steps.export.bundle_writer import BundleMetadata, HeldOutRows, export_bundle

KINDS = {"age": "float64", "visits": "int64", "member": "bool", "city": object}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Mixed columns; age and city have gaps."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 10, 120).round(1),
            "visits": rng.integers(0, 9, 120),
            "member": rng.random(120) > 0.5,
            "city": rng.choice(["Bremen", "Cuxhaven", "Emden"], 120),
        }
    ).astype(KINDS)
    frame.loc[::11, "age"] = np.nan
    frame.loc[::13, "city"] = None
    return frame


@pytest.fixture(scope="module")
def scorer(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    y = np.where(table.visits + 3 * table.member > 4, "stays", "leaves").astype(object)
    project = Project("churn", sklearn_dataset("iris"), "y", [Candidate("lr", LogisticRegression)])
    model = build_pipeline(LogisticRegression(), table, project).fit(table, y)
    signature = infer_signature(table, y, "classification", project)
    folder = tmp_path_factory.mktemp("bundle") / "b"
    return Scorer(
        export_bundle(
            model, signature, table, HeldOutRows(table, y), folder, BundleMetadata("churn")
        )
    )


def scored(
    scorer: Scorer, text: str | bytes, tmp_path: Path, *, keep_going: bool = False
) -> tuple[list[dict[str, str]], int]:
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    out = io.StringIO()
    with open_rows(path) as source:
        _, refused = score_file(scorer, source, out, path.stat().st_size, keep_going)
    return list(csv.DictReader(io.StringIO(out.getvalue()))), refused


def test_a_file_is_scored_as_the_model_scores_the_table(
    scorer: Scorer, table: pd.DataFrame, tmp_path: Path
) -> None:
    rows, refused = scored(scorer, table.to_csv(index=False), tmp_path)
    plain = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    answers = scorer.score(plain)
    assert refused == 0
    assert [r["prediction"] for r in rows] == [a.prediction for a in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert answer.probabilities is not None
        assert math.isclose(float(row["confidence"]), max(answer.probabilities))
        assert math.isclose(float(row["probability_leaves"]), answer.probabilities[0])


def test_other_columns_are_carried_along_and_order_does_not_matter(
    scorer: Scorer, tmp_path: Path
) -> None:
    text = 'city,note,visits,age,member\nEmden,"a, b",3,41,true\n'
    (row,), _ = scored(scorer, text, tmp_path)
    assert (row["note"], row["city"]) == ("a, b", "Emden")
    assert row["prediction"] in ("stays", "leaves")


def test_columns_called_like_the_added_ones_are_kept(scorer: Scorer, tmp_path: Path) -> None:
    text = (
        "city,visits,age,member,prediction,confidence,error,model_error\n"
        "Emden,3,41,true,mine,0.5,none,1\nAtlantis,3,41,true,mine,0.5,none,1\n"
    )
    rows, refused = scored(scorer, text, tmp_path, keep_going=True)
    assert refused == 1
    for row in rows:
        kept = [row[name] for name in ("prediction", "confidence", "error", "model_error")]
        assert kept == ["mine", "0.5", "none", "1"]
    assert rows[0]["model_prediction"] in ("stays", "leaves")
    assert float(rows[0]["model_confidence"]) >= 0.5
    assert [row["model_model_error"] == "" for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("old,3,true,Emden", "Line 2: 'age' is \"old\""),
        ("41,3.5,true,Emden", "Line 2: 'visits' is 3.5"),
        ("41,3,maybe,Emden", "Line 2: 'member' is \"maybe\""),
        ("41,3,true,Atlantis", "Line 2: 'city' is \"Atlantis\", which the model never saw"),
        ("41,,true,Emden", "Line 2: 'visits' is missing"),
        ("41,3,true", "Line 2: The line has more or fewer cells"),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_its_line(
    scorer: Scorer, tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        scored(scorer, f"age,visits,member,city\n{line}\n", tmp_path)
    assert message in refused.value.detail


def test_keep_going_writes_refused_rows_with_their_reason(scorer: Scorer, tmp_path: Path) -> None:
    text = "age,visits,member,city\n41,3,true,Emden\n41,many,true,Emden\n"
    rows, refused = scored(scorer, text, tmp_path, keep_going=True)
    assert refused == 1
    assert (rows[0]["error"], rows[1]["prediction"]) == ("", "")
    assert "'visits'" in rows[1]["error"]


def test_a_missing_column_is_named(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'visits', 'member'"):
        scored(scorer, "age,city\n41,Emden\n", tmp_path)


COMMAS = "age,visits,member,city\n41.5,3,true,Emden\n"
SEMICOLONS = "age;visits;member;city\n41,5;3;true;Emden\n"


@pytest.mark.parametrize(
    "content",
    [
        COMMAS.encode("utf-8-sig"),
        COMMAS.encode("utf-16"),
        COMMAS.replace("\n", "\r\n").encode(),
        COMMAS.replace("\n", "\n\n").encode(),
        COMMAS.replace(",", "\t").encode(),
        SEMICOLONS.encode(),
        SEMICOLONS.encode("utf-8-sig"),
        b"note,age,visits,member,city\nSch\xf6n,41.5,3,true,Emden\n",
    ],
    ids=["bom", "utf16", "crlf", "blank", "tabs", "semicolons", "semicolons-bom", "latin"],
)
def test_how_the_file_is_written_makes_no_difference(
    scorer: Scorer, tmp_path: Path, content: bytes
) -> None:
    ((expected,), _), ((row,), _) = (scored(scorer, c, tmp_path) for c in (COMMAS, content))
    assert row["prediction"] == expected["prediction"]
    assert row["confidence"] == expected["confidence"]


def test_the_line_that_is_named_is_the_files_own(scorer: Scorer, tmp_path: Path) -> None:
    text = 'age,visits,member,city,note\n\n41,3,true,Emden,"two\nlines"\nold,3,true,Emden,x\n'
    with pytest.raises(InputError, match="Line 5: 'age'"):
        scored(scorer, text, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty"),
        (b"age,visits,member,city,age\n1,2,true,Emden,3\n", "column 'age' more than once"),
        (b"age,visits,member,city\n" + b"4" * 200_000 + b",1,true,Emden\n", "field larger than"),
        (bytes(range(256)) * 20, "no column 'age'"),
    ],
    ids=["empty", "twice", "endless", "binary"],
)
def test_invalid_files_are_refused(
    scorer: Scorer, tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        scored(scorer, content, tmp_path)
    assert message in refused.value.detail


@pytest.mark.parametrize("output", ["nowhere/out.csv", "."])
def test_where_nothing_can_be_written_is_said_before_anything_is_done(
    tmp_path: Path, output: str
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(COMMAS)
    with pytest.raises(InputError) as refused:
        predict("churn", rows, tmp_path / output, home=tmp_path)
    assert refused.value.field == "output"


@given(
    st.one_of(
        st.sampled_from(sorted(MISSING)),
        st.floats(allow_nan=False).map(repr),
        st.integers(-(2**60), 2**60).map(str),
        st.from_regex(r"\A[-+]?[0-9]{0,3}[._]?[0-9]{1,3}(e[0-9])?\Z"),
    )
)
def test_a_cell_means_what_pandas_takes_it_for(text: str) -> None:
    """A column of the cell and 0.5 is read in training; the same cell is read here."""
    column = pd.read_csv(io.StringIO(f'x,y\n"{text}",1\n0.5,1\n')).x
    expected = None if pd.isna(column[0]) else column[0]
    found = read_cell("number", text, ".")
    if expected is None or isinstance(expected, str):
        assert found == expected
    else:
        assert found == pytest.approx(float(expected), rel=1e-15, abs=0)


@pytest.mark.parametrize(("text", "value"), [("1,5", 1.5), (" -2,25", -2.25), ("1,5,0", "1,5,0")])
def test_where_the_separator_is_no_comma_a_number_may_have_one(
    text: str, value: float | str
) -> None:
    assert read_cell("number", text, ",") == value
    assert read_cell("number", text, ".") == text
    assert read_cell("text", text, ",") == text
