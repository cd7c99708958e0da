"""New projects: what is inferred about a table, and that the created files work."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConflictError, DataError, ProjectError
from tidemill.loop.training.new_project import write_project
from tidemill.project import gallery, load_project
from tidemill.steps.data.csv_dialect import csv_options, read_table
from tidemill.steps.data.prepare import prepare
from tidemill.steps.data.scaffold import render_project, render_readme
from tidemill.steps.data.table_spec import infer_table_spec, sample_customers

ROWS = 40


def table(**columns: Any) -> pd.DataFrame:
    """Forty rows: an input, whatever is given, and a target of two classes at the end."""
    target = ["yes", "no"] * (ROWS // 2)
    plain = [n % 7 / 2 for n in range(ROWS)]
    return pd.DataFrame({"plain": plain, **columns, "left": target})


def guessed(frame: pd.DataFrame, **more: Any) -> Any:
    return infer_table_spec(frame, "data/rows.csv", options={}, **more)


# Guesses


def test_the_target_is_the_last_column() -> None:
    assert guessed(table()).target == "left"


@pytest.mark.parametrize("name", ["target", "Label", "class", "y", "outcome"])
def test_a_column_with_a_common_target_name_is_the_target(name: str) -> None:
    assert guessed(table(**{name: [0, 1] * 20})).target == name


def test_the_requested_target_has_precedence() -> None:
    assert guessed(table(target=[0, 1] * 20), target="plain").target == "plain"


def test_an_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ProjectError, match="Did you mean 'left'") as caught:
        guessed(table(), target="lefft")
    assert caught.value.field == "target"


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"] * 20, "classification"),
        ([True, False] * 20, "classification"),
        ([0, 1] * 20, "classification"),
        ([1, 2, None, 1] * 10, "classification"),
        ([n / 3 for n in range(40)], "regression"),
        ([n * 100 for n in range(40)], "regression"),
    ],
)
def test_the_task_follows_from_the_target(values: list[Any], task: str) -> None:
    assert guessed(table().assign(left=values)).task == task


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Id", [n * 3 for n in range(ROWS)]),
        ("customerID", [n * 3 for n in range(ROWS)]),
        ("customer_id", [f"c{n}" for n in range(ROWS)]),
        ("uuid", [f"{n:032x}" for n in range(ROWS)]),
        ("Unnamed: 0", list(range(ROWS))),
        ("rank", list(range(100, 100 + ROWS))),
        ("name", [f"person {n}" for n in range(ROWS)]),
        ("empty", [None] * ROWS),
    ],
)
def test_columns_that_only_identify_rows_are_left_out(name: str, values: list[Any]) -> None:
    assert list(guessed(table(**{name: values})).drop) == [name]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("paid", [n * 3 for n in range(ROWS)]),  # ends in "id", is none
        ("humid", [float(n) for n in range(ROWS)]),
        ("store_id", [1, 2, 3, 4] * 10),
        ("city", ["a", "b", "c", "d"] * 10),
        ("weight", [n / 7 for n in range(ROWS)]),
        ("gap", [None, 1.0] * 20),
    ],
)
def test_informative_columns_are_kept(name: str, values: list[Any]) -> None:
    assert guessed(table(**{name: values})).drop == {}


def test_a_table_of_ids_has_no_inputs() -> None:
    with pytest.raises(ProjectError, match="no columns to predict"):
        guessed(pd.DataFrame({"id": range(10), "y": [0, 1] * 5}))


def test_the_example_row_has_no_missing_values() -> None:
    frame = table(age=[None, None, 30.0, 31.0] * 10, id=list(range(ROWS)))
    assert guessed(frame).row == {"plain": 1.0, "age": 30.0}


# Files


def test_the_request_in_the_readme_works_in_a_shell() -> None:
    row = {"it's": 'a "quoted" $HOME `x` \\ text', "n": 1.5}
    ask = re.search(r"^curl .*?(?=\n```)", render_readme("churn", row), re.DOTALL | re.MULTILINE)
    assert ask is not None
    assert json.loads(shlex.split(ask.group())[-1]) == row


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(column=names, target=names, file=names)
def test_any_names_are_valid_in_a_project_file(column: str, target: str, file: str) -> None:
    if column == target:
        column += "2"
    frame = pd.DataFrame({"plain": [0.5, 1.5] * 10, column: range(20), target: ["a", "b"] * 10})
    if len(set(frame)) < 3:
        return
    described = infer_table_spec(frame, f"data/{file}", target=target, options={"sep": ";"})
    assert column in described.drop
    scope: dict[str, Any] = {}
    exec(compile(render_project("p", described), "project.py", "exec"), scope)
    project = scope["project"]
    assert (project.target, list(project.drop)) == (target, [column])
    assert project.data.describe == f"csv:data/{file}"


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_written_project_is_in_the_house_style(tmp_path: Path, task: str) -> None:
    target = "left" if task == "classification" else "plain"
    text = render_project("churn", guessed(table(id=range(ROWS)), target=target))
    (tmp_path / "project.py").write_text(text)
    for command in (["format", "--check"], ["check", "--select", "E,F,UP,B"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", "."],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a,b\n1,2\n", {}),
        ("a;b\n1,5;x\n2,5;y\n", {"sep": ";", "decimal": ","}),
        ("a;b\n1.5;x, y\n", {"sep": ";"}),
        ("a\tb\n1\t2\n", {"sep": "\t"}),
        ("a|b|c\n1|2|3\n", {"sep": "|"}),
        ('a,b\n"x; y",2\n', {}),
        ("größe,b\n1,2\n", {}),
    ],
)
def test_the_format_of_a_csv_is_detected(
    tmp_path: Path, content: str, options: dict[str, str]
) -> None:
    (tmp_path / "rows.csv").write_text(content, encoding="utf-8")
    assert csv_options(tmp_path / "rows.csv") == options
    frame, same = read_table(tmp_path / "rows.csv")
    assert same == options
    assert len(frame.columns) == len(re.findall(r"[\w]+", content.splitlines()[0]))


def test_a_csv_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("größe,preis €\n1,2\n".encode("cp1252"))
    frame, options = read_table(tmp_path / "rows.csv")
    assert list(frame) == ["größe", "preis €"]
    assert options == {"encoding": "cp1252"}


def test_a_csv_in_the_encoding_of_spreadsheets_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("Größe,b\n1,x\n", encoding="utf-16")
    frame, options = read_table(tmp_path / "rows.csv")
    assert options == {"encoding": "utf-16"}
    assert list(frame) == ["Größe", "b"]


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert list(read_table(tmp_path / "rows.csv")[0]) == ["a", "b"]


@pytest.mark.parametrize("content", ["", "a\n1\n", "a,b\n", "5.1,3.5\n4.9,3.0\n"], ids=repr)
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(DataError, match=r"rows\.csv"):
        write_project(tmp_path / "p", source=str(tmp_path / "rows.csv"))
    assert not (tmp_path / "p").exists()


# Whole projects


def test_the_sample_has_every_kind_of_column_missing_values_and_two_classes() -> None:
    frame = sample_customers()
    assert frame.equals(sample_customers())
    assert frame.isna().any().sum() == 3
    assert frame["churned"].value_counts(normalize=True).min() > 0.3


def test_a_project_without_a_source_has_rows_to_train_on(tmp_path: Path) -> None:
    written = write_project(tmp_path / "churn").files
    assert {str(path.relative_to(tmp_path / "churn")) for path in written} == {
        "project.py", "README.md", ".gitignore", "data/customers.csv",
    }  # fmt: skip
    project = load_project(tmp_path / "churn" / "project.py")
    assert project.name == "churn"
    prepared = prepare(project)
    assert prepared.task == "classification"
    assert prepared.inputs == (
        "age", "region", "plan", "monthly_fee", "months", "support_calls", "autopay",
    )  # fmt: skip
    assert prepared.warnings == ()


def test_a_table_is_copied_and_described(tmp_path: Path) -> None:
    csv = tmp_path / "Ma données.csv"
    table(id=range(ROWS)).to_csv(csv, index=False, sep=";", decimal=",")
    write_project(tmp_path / "p", source=str(csv))
    assert (tmp_path / "p" / "data" / csv.name).read_bytes() == csv.read_bytes()
    prepared = prepare(load_project(tmp_path / "p" / "project.py"))
    assert prepared.inputs == ("plain",)
    assert prepared.train["plain"].dtype == "float64"


@pytest.mark.parametrize("template", gallery())
def test_every_gallery_project_can_be_started_from(tmp_path: Path, template: str) -> None:
    folder = tmp_path / "mine"
    written = write_project(folder, source=template).files
    assert all(path.is_file() for path in written)
    mine = load_project(folder / "project.py")
    assert mine.name == load_project(f"gallery:{template}").name
    assert mine.root == folder
    text = (folder / "project.py").read_text()
    assert "gallery:" not in text
    assert mine.name in (folder / "README.md").read_text()
    assert ast.get_docstring(ast.parse(text))


def test_a_project_from_iris_comes_with_its_raw_file(tmp_path: Path) -> None:
    written = write_project(tmp_path / "flowers", source="iris").files
    assert tmp_path / "flowers" / "data" / "raw" / "Iris.csv" in written


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert write_project(tmp_path / "p")


@pytest.mark.parametrize("source", [None, "iris"])
def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, source: str | None) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match="is not empty"):
        write_project(tmp_path / "p", source=source)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["notes.txt"]


def test_a_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("mine")
    with pytest.raises(ConflictError, match="is a file"):
        write_project(tmp_path / "p")


@pytest.mark.parametrize("name", ["my project", "-p", ".hidden", "a:b", "p" * 101, "prix€"])
def test_a_name_that_is_not_valid_for_a_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="not a valid name for a project"):
        write_project(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_names_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churn").mkdir()
    monkeypatch.chdir(tmp_path / "churn")
    write_project(Path())
    assert load_project("project.py").name == "churn"


def test_an_unknown_source_lists_the_gallery(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no file and no gallery project") as caught:
        write_project(tmp_path / "p", source="titanic")
    assert "iris" in (caught.value.expected or "")


def test_another_file_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(ProjectError, match="Save it as CSV"):
        write_project(tmp_path / "p", source=str(tmp_path / "rows.xlsx"))


def test_the_target_of_a_gallery_project_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="its own target"):
        write_project(tmp_path / "p", source="iris", target="Species")


def test_gitignore_covers_generated_files_only(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "churn"
    write_project(folder)
    for made in (".tidemill/mlflow.db", "data/processed/train.csv", "__pycache__/project.pyc"):
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        (folder / made).touch()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(listed.stdout.split()) == {
        ".gitignore", "README.md", "data/customers.csv", "project.py",
    }  # fmt: skip
