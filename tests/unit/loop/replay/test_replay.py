"""What a replay is made of: the table on stage, requests, courses, the report, and refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tidemill.cli.app import app
from tidemill.errors import DataError, ProjectError
from tidemill.loop.replay.baselines import Baseline
from tidemill.loop.replay.record import ReplayEvent, ReplayPace, ReplayRecord
from tidemill.loop.replay.report import make_report
from tidemill.loop.replay.setup import ReplaySetup, prepare_replay, requests_of
from tidemill.project import load_project
from tidemill.signature import Column, Signature
from tidemill.steps.replay.comparison import comparison_sentence, part_edges, strategy_result


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """700 rows in the wrong order, with gaps, texts, and a few rows without a label."""
    random = np.random.default_rng(5)
    days = pd.date_range("2024-01-01", periods=700, freq="h")
    frame = pd.DataFrame(
        {
            "when": days.strftime("%Y-%m-%d %H:%M"),
            "size": random.normal(size=700).round(3),
            "plan": random.choice(["a", "b", "c"], 700),
            "grade": np.where(random.random(700) < 0.5, "good", "bad"),
        }
    )
    frame.loc[::50, "size"] = np.nan
    frame.loc[[10, 600], "grade"] = None
    path = tmp_path / "rows.csv"
    frame.sample(frac=1, random_state=3).to_csv(path, index=False)
    return path


def test_table_is_ordered_by_time(table: Path, tmp_path: Path) -> None:
    staged = prepare_replay(table, tmp_path / "stage", target="grade", time="when", warmup=400)
    assert len(staged.frame) == 698  # rows without a label are left out
    assert "when" not in staged.frame.columns
    assert set(staged.truth) == {"good", "bad"}
    original = pd.read_csv(table).sort_values("when")
    kept = original[original["grade"].notna()]["size"].tolist()
    np.testing.assert_array_equal(staged.frame["size"].to_numpy(), np.array(kept))
    again = load_project(staged.reference)
    assert (again.retrain.cooldown, again.contest.age, again.decay.age) == (0, None, None)
    assert again.unknown_categories == "accept"
    warmup = pd.read_csv(tmp_path / "stage" / "warmup.csv")
    assert len(warmup) == 400


@pytest.mark.parametrize(("target", "metric"), [("grade", "accuracy"), ("size", "mae")])
def test_generated_project_uses_the_reported_metric(
    table: Path, tmp_path: Path, target: str, metric: str
) -> None:
    staged = prepare_replay(table, tmp_path / "stage", target=target, time="when", warmup=400)
    assert staged.project.gate.metric == metric


def test_time_based_settings_are_removed(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "from tidemill import Candidate, Project, Retraining, csv\n"
        "project = Project('own', csv('nowhere.csv'), 'grade',\n"
        "    [Candidate('c', LogisticRegression)], drop=['when'],\n"
        "    retrain=Retraining(on=('decay', 'schedule'), schedule='7d', cooldown='6h'))\n"
    )
    staged = prepare_replay(table, tmp_path / "stage", project=str(file), warmup=300)
    assert staged.project.retrain.on == ("decay",)
    assert staged.project.retrain.schedule is None
    assert staged.project.name == "own"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"time": "hour"}, "time"),
        ({"time": "plan"}, "time"),
        ({"target": "nothing"}, "target"),
        ({"warmup": 690}, "warmup"),
    ],
)
def test_unusable_tables_are_refused(
    table: Path, tmp_path: Path, wrong: dict[str, object], field: str
) -> None:
    options = {"target": "grade", **wrong}
    with pytest.raises((DataError, ProjectError)) as refused:
        prepare_replay(table, tmp_path / "stage", **options)  # type: ignore[arg-type]
    assert refused.value.field == field


@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-31T23:00:00Z", "2024-06-01T00:30:00+01:00", "2024-06-01"],
        ["1717200000", "1717200900", "1717286400.5"],
        ["31/05/2024", "01/06/2024 08:00", "02/06/2024"],  # day first, as one row says
        ["5/31/24 10:00 AM", "5/31/24 1:00 PM", "6/1/24 9:00 AM"],
        ["31.12.2023", "1.1.2024", "2.1.2024"],
        ["Dec 31, 2023", "Jan 1, 2024", "Feb 1, 2024"],
        ["2023-12", "2024-01", "2024-02"],
    ],
)
def test_times_of_many_kinds_put_rows_in_order(times: list[str], tmp_path: Path) -> None:
    places = np.repeat(np.arange(3), 70)
    rows = pd.DataFrame({"when": np.array(times)[places], "x": places, "y": places % 2})
    file = tmp_path / "rows.csv"
    rows.sample(frac=1, random_state=1).to_csv(file, index=False)
    found = prepare_replay(file, tmp_path / "stage", target="y", time="when", warmup=80)
    assert found.frame["x"].tolist() == places.tolist()


@pytest.mark.parametrize(
    ("times", "why"),
    [
        (["01/06/2024", "02/06/2024"], "either may be the day"),
        (["13/06/2024", "06/13/2024"], "some have the day first"),
        (["2024-05-31", "yesterday"], "1 values of 'when' are not times"),
    ],
)
def test_ambiguous_dates_are_refused(times: list[str], why: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    pd.DataFrame({"when": times, "y": [0, 1]}).to_csv(file, index=False)
    with pytest.raises(DataError, match=why) as refused:
        prepare_replay(file, tmp_path / "stage", target="y", time="when")
    assert refused.value.field == "time"


def test_rows_become_what_a_client_sends() -> None:
    signature = Signature(
        "classification",
        "y",
        (
            Column("a", "number", nullable=True),
            Column("n", "integer"),
            Column("b", "boolean"),
            Column("t", "text", nullable=True),
        ),
        labels=("x", "z"),
    )
    frame = pd.DataFrame(
        {"a": [1.5, np.nan], "n": [3, 4], "b": [True, False], "t": ["u", None], "y": ["x", "z"]}
    )
    found = requests_of(frame, signature)
    assert found == [
        {"a": 1.5, "n": 3, "b": True, "t": "u"},
        {"a": None, "n": 4, "b": False, "t": None},
    ]
    assert json.loads(json.dumps(found)) == found


@given(st.integers(1, 20_000))
def test_parts_cover_every_row_once(rows: int) -> None:
    parts = part_edges(rows)
    assert (parts[0].start, parts[-1].stop) == (0, rows)
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert all(part.stop > part.start for part in parts)


def test_sentence_compares_the_loop_with_others() -> None:
    truth = np.array(["a"] * 100, dtype=object)
    answered = np.ones(100, dtype=bool)

    def way(name: str, wrong: int, retrainings: int) -> object:
        outputs = np.array(["b"] * wrong + ["a"] * (100 - wrong), dtype=object)
        return strategy_result(
            name, "classification", truth, outputs, answered, retrainings=retrainings
        )

    said = comparison_sentence([way("the loop", 10, 1), way("left alone", 20, 0)], "classification")  # type: ignore[list-item]
    assert said == (
        "The loop had 10.00% wrong answers with 1 retraining; left alone had 20.00% with no "
        "retraining (the loop is 50% better)."
    )
    worse = comparison_sentence(
        [way("the loop", 30, 2), way("left alone", 20, 0)], "classification"
    )  # type: ignore[list-item]
    assert "the loop is 50% worse" in worse
    alike = comparison_sentence(
        [way("the loop", 20, 2), way("left alone", 20, 0)], "classification"
    )  # type: ignore[list-item]
    assert "the loop is as good" in alike


def test_report_is_one_page(tmp_path: Path) -> None:
    truth = np.arange(160, dtype=float)
    frame = pd.DataFrame({"x": truth, "y": truth})
    staged = ReplaySetup(load_project("gallery:california_housing"), tmp_path, frame, truth, 60)
    outputs = [None if row == 7 else float(row + 60) for row in range(100)]
    events = [
        ReplayEvent(50, "trigger", "decay: <worse>"),
        ReplayEvent(60, "swap", "version 2 answers"),
    ]
    record = ReplayRecord(outputs, ["1"] * 60 + ["2"] * 40, events, sent=99, labels=99, refused=1,
                    retrainings=[50], seconds=2.0)  # fmt: skip
    alone = Baseline("left alone", truth[60:] + 1.0)
    report = make_report(record, staged, ReplayPace(), [alone], source="rows.csv")
    loop, other = report.strategies
    assert (loop.loss, other.loss) == (0.0, 1.0)
    assert loop.metrics["r2"] == 1.0
    paths = report.write(tmp_path / "out")
    document = json.loads(paths[0].read_text())
    assert document["versions"] == {"1": 60, "2": 40}
    assert document["rows_refused"] == 1
    assert document["ways"][0]["retrainings"] == 1
    page = paths[1].read_text()
    assert "data:image/png;base64," in page
    assert "decay: &lt;worse&gt;" in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--speed", "slow"], "There is no speed 'slow'"),
        (["--project", "p.py", "--target", "y"], "Give --project or --target"),
        (["--output", "."], "already exists"),
    ],
)
def test_invalid_commands_are_refused(table: Path, words: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["replay", str(table), *words])
    assert found.exit_code != 0
    assert said in f"{found.output} {found.exception}"


def test_retraining_is_requested_once(table: Path, tmp_path: Path) -> None:
    staged = prepare_replay(table, tmp_path / "stage", target="grade", time="when", warmup=400)
    home = ["--home", str(tmp_path / "home")]
    env = {"TIDEMILL_PROJECT": str(staged.reference)}
    name = staged.project.name
    first = CliRunner().invoke(app, ["retrain", name, *home, "--json"], env=env)
    assert first.exit_code == 0, first.output
    assert set(json.loads(first.stdout)) == {"trigger", "job"}
    again = CliRunner().invoke(app, ["retrain", name, *home], env=env)
    assert "is retraining" in f"{again.output} {again.exception}"
    nobody = CliRunner().invoke(app, ["retrain", "nobody", *home], env=env)
    assert nobody.exit_code != 0
