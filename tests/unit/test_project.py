"""A project's checks, building of candidates, and loading of project files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidemill import Candidate, Gate, Project, csv
from tidemill.errors import DataError, ProjectError
from tidemill.metrics import METRICS
from tidemill.project import gallery, load_project

PROJECT = """
from sklearn.linear_model import LogisticRegression
from tidemill import Candidate, Project, csv

project = Project("p", csv("data/rows.csv"), "y", [Candidate("c", LogisticRegression)])
"""


def make(**changes: Any) -> Project:
    given: dict[str, Any] = {
        "name": "p",
        "data": csv("rows.csv"),
        "target": "y",
        "candidates": [Candidate("c", LogisticRegression)],
    }
    return Project(**{**given, **changes})


def wrapped(C: float = 1.0, **more: Any) -> LogisticRegression:
    return LogisticRegression(C=C, **more)


def strict(C: float = 1.0, penalty: str = "l2") -> tuple[float, str]:
    return C, penalty


# Candidates


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression, LogisticRegression(C=7.0), wrapped],
    ids=["class", "instance", "function"],
)
def test_a_candidate_builds_from_a_class_an_instance_and_a_function(estimator: Any) -> None:
    candidate = Candidate("c", estimator, {"C": 2.0})
    assert candidate.build().C == 2.0
    assert candidate.build(C=3.0, max_iter=7).get_params()["max_iter"] == 7


def test_building_from_an_instance_does_not_change_it() -> None:
    given = LogisticRegression(C=7.0)
    built = Candidate("c", given).build(C=1.0)
    assert built is not given
    assert (given.C, built.C) == (7.0, 1.0)


def test_an_instance_has_the_parameters_of_its_steps() -> None:
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier())
    built = Candidate("c", pipeline).build(randomforestclassifier__n_estimators=3)
    assert built[-1].n_estimators == 3


def test_two_builds_are_independent() -> None:
    candidate = Candidate("c", make_pipeline(StandardScaler(), LogisticRegression()))
    assert candidate.build()[-1] is not candidate.build()[-1]


@given(st.text(min_size=1).filter(lambda name: name not in ("C", "penalty")))
def test_an_unknown_parameter_is_named(name: str) -> None:
    with pytest.raises(ProjectError) as caught:
        Candidate("c", strict).build(**{name: 1})
    assert caught.value.field == name
    assert caught.value.expected == "one of C, penalty"


@given(st.dictionaries(st.sampled_from(["C", "penalty"]), st.integers()), st.data())
def test_overrides_have_precedence_over_params_and_both_over_defaults(
    own: dict[str, Any], data: st.DataObject
) -> None:
    later = data.draw(st.dictionaries(st.sampled_from(["C", "penalty"]), st.integers()))
    candidate = Candidate("c", strict, own)
    expected = {**(candidate.parameters() or {}), **own, **later}
    assert candidate.build(**later) == (expected["C"], expected["penalty"])


def test_the_parameters_of_a_candidate_have_their_defaults() -> None:
    assert Candidate("c", strict).parameters() == {"C": 1.0, "penalty": "l2"}
    assert Candidate("c", wrapped).parameters() is None
    assert (Candidate("c", LogisticRegression(C=7.0)).parameters() or {})["C"] == 7.0


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "a:b", "a\\b"])
def test_a_candidates_name_must_fit_a_command_line(name: str) -> None:
    with pytest.raises(ProjectError, match="not a valid name for a candidate"):
        Candidate(name, LogisticRegression)


@pytest.mark.parametrize(
    "values", ["l1", [], (), (1,), (1, 2, 3), (2, 1), ("a", "b"), (True, 2), 5, {"a"}]
)
def test_a_search_entry_must_be_a_list_or_a_range(values: Any) -> None:
    with pytest.raises(ProjectError, match="cannot search 'penalty'"):
        Candidate("c", strict, search={"penalty": values})


@pytest.mark.parametrize("values", [["l1"], [1, "a", None], (0.1, 10), (1, 5), range(3)])
def test_lists_and_ranges_can_be_searched(values: Any) -> None:
    assert Candidate("c", strict, search={"C": values}).search["C"] == values


def test_zero_trials_are_refused() -> None:
    with pytest.raises(ProjectError, match="trials=0"):
        Candidate("c", strict, trials=0)


# Projects


@given(st.text(max_size=20))
def test_a_project_name_must_be_possible_in_a_url(name: str) -> None:
    if name and not set(name) & set("/:\\"):
        assert make(name=name).name == name
    else:
        with pytest.raises(ProjectError, match="not a valid name for a model"):
            make(name=name)


@given(st.floats(allow_nan=True))
def test_a_test_size_must_leave_rows_on_both_sides(size: float) -> None:
    if 0 < size < 1:
        assert make(test_size=size).test_size == size
    else:
        with pytest.raises(ProjectError, match="test_size"):
            make(test_size=size)


@pytest.mark.parametrize("count", [0, 2])
def test_candidates_are_needed_and_their_names_must_differ(count: int) -> None:
    with pytest.raises(ProjectError, match="its own name"):
        make(candidates=[Candidate("c", LogisticRegression)] * count)


def test_the_target_cannot_be_dropped() -> None:
    with pytest.raises(ProjectError, match="also in `drop`"):
        make(drop=["id", "y"])


def test_a_candidate_is_found_by_name_and_an_unknown_name_lists_them() -> None:
    project = make()
    assert project.candidate("c") is project.candidates[0]
    with pytest.raises(ProjectError) as caught:
        project.candidate("d")
    assert caught.value.expected == "one of c"


@pytest.mark.parametrize("gate", [{"metric": "f2"}, {"minimum": {"acuracy": 0.5}}])
def test_a_gate_accepts_only_known_metrics(gate: dict[str, Any]) -> None:
    with pytest.raises(ProjectError, match="unknown metric") as caught:
        Gate(**gate)
    assert "f1_score" in (caught.value.expected or "")


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_accepts_every_metric(metric: str) -> None:
    assert Gate(metric=metric, minimum={metric: 0.5}).metric == metric


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95])
def test_the_confidence_of_a_gate_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ProjectError, match="confidence"):
        Gate(confidence=confidence)


# Finding projects


def written(folder: Path, text: str, name: str = "project.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_project_file_is_loaded_with_its_folder_as_root(tmp_path: Path) -> None:
    project = load_project(written(tmp_path, PROJECT))
    assert project.name == "p"
    assert project.root == tmp_path


def test_paths_in_a_project_file_start_at_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p" / "data").mkdir(parents=True)
    written(tmp_path / "p" / "data", "x,y\n1,2\n", "rows.csv")
    file = written(tmp_path / "p", PROJECT)
    monkeypatch.chdir("/")
    data = load_project(file).data
    assert data.load().to_dict("list") == {"x": [1], "y": [2]}  # type: ignore[union-attr]
    assert data.describe == "csv:data/rows.csv"  # type: ignore[union-attr]


def test_a_project_file_may_import_modules_of_its_folder(tmp_path: Path) -> None:
    written(tmp_path, "TARGET = 'y'", "beside_the_project.py")
    text = PROJECT.replace('"y"', "TARGET") + "\n"
    project = load_project(written(tmp_path, "from beside_the_project import TARGET\n" + text))
    assert project.target == "y"
    assert str(tmp_path) not in sys.path


def test_the_same_project_under_two_names_is_one_project(tmp_path: Path) -> None:
    assert load_project(written(tmp_path, PROJECT + "default = project\n")).name == "p"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines 0 projects"),
        (PROJECT + "import dataclasses\nq = dataclasses.replace(project, name='q')", "defines 2"),
        ("def broken(:\n", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_package_here", "no_such_package_here"),
        (PROJECT.replace('"p"', '"a/b"'), "'a/b' is not a valid name for a model"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
    ids=["empty", "two", "syntax", "failing", "import", "refused", "exiting"],
)
def test_a_file_without_a_project_fails_with_the_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        load_project(written(tmp_path, text))


def test_a_missing_project_file_says_how_to_create_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="tidemill init") as caught:
        load_project(tmp_path / "project.py")
    assert str(tmp_path / "project.py") in caught.value.detail


def test_an_unknown_gallery_project_lists_the_known_ones() -> None:
    with pytest.raises(ProjectError) as caught:
        load_project("gallery:irises")
    assert all(name in (caught.value.expected or "") for name in gallery())


def test_gallery_projects_store_their_files_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = load_project("gallery:iris", home=tmp_path)
    assert project.root == tmp_path / "gallery" / "iris"
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "other"))
    assert load_project("gallery:iris").root == tmp_path / "other" / "gallery" / "iris"
    assert load_project("gallery:iris", home=tmp_path).root == project.root


def test_defining_projects_loads_neither_pandas_nor_scikit_learn() -> None:
    code = "import sys, tidemill; print(*{'pandas', 'sklearn', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    data = load_project(written(tmp_path, PROJECT)).data
    with pytest.raises(DataError, match=r"data/rows\.csv") as caught:
        data.load()  # type: ignore[union-attr]
    assert caught.value.field == "data"
