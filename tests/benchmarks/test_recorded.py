from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _compare, _recorded
from benchmarks._recorded import Record, apart, read_options, summarise, through
from jobs.versions import STAGES


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recorded, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_compare, "_failed", [])


def raise_version(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = STAGES[stage]._replace(version=STAGES[stage].version + 1)
    monkeypatch.setitem(STAGES, stage, raised)


def recorded(tmp_path: Path) -> Record:
    record = Record("points", tmp_path / "state")
    record.add("2 layers", 0, ["finetune", "distill"], "python -m jobs.distill", {"ours": 0.9, "peer": 1.0})
    return record


def asked(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"record": True, "anew": False, "seeds": [0, 1]} | given)


def test_a_point_is_void_once_a_stage_that_made_it_was_raised_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    record = recorded(tmp_path)
    raise_version("compress", monkeypatch)
    assert record.find("2 layers", 0) and not record.void("2 layers", 0)
    raise_version("distill", monkeypatch)
    assert record.find("2 layers", 0) is None
    summarise(record, "2 layers", "accuracy", 0.5)
    apart(record, ["2 layers"])
    row, void = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (row["ratio"], row["holds"]) == (None, False)
    made, now = STAGES["distill"].version - 1, STAGES["distill"].version
    assert void["changed"] == f"distill {made} -> {now}" and "holds" not in void


def test_a_point_of_before_stages_had_versions_is_void(tmp_path: Path):
    file = tmp_path / "results" / "points.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps({"row": "2 layers", "seed": 0, "ours": 0.9, "peer": 1.0, "code": "abc"}) + "\n")
    record = Record("points", tmp_path / "state")
    assert record.find("2 layers", 0) is None and record.void("2 layers", 0)


def test_points_lie_outside_the_tree_until_they_land_and_outlive_what_was_interrupted(tmp_path: Path):
    recorded(tmp_path)
    results = tmp_path / "results" / "points.jsonl"
    assert not results.exists()
    again = Record("points", tmp_path / "state")
    point = again.find("2 layers", 0)
    assert point and point["stages"] == {stage: STAGES[stage].version for stage in ("finetune", "distill")}
    assert point["machine"] and point["code"] and point["versions"]["torch"]
    again.land()
    assert json.loads(results.read_text()) == point
    assert Record("points", tmp_path / "nowhere").find("2 layers", 0) == point


def test_recording_makes_what_is_missing_or_void_and_anew_makes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record, made = recorded(tmp_path), []
    rows = ["2 layers", "1 layer"]
    through(rows, asked(record=False), record, lambda *point: made.append(point))
    assert made == []
    through(rows, asked(), record, lambda *point: made.append(point))
    assert made == [("1 layer", 0), ("2 layers", 1), ("1 layer", 1)]
    raise_version("finetune", monkeypatch)
    through(rows, asked(seeds=[0]), record, lambda *point: made.append(point))
    assert made[3:] == [("2 layers", 0), ("1 layer", 0)]


@pytest.mark.parametrize(("given", "said"), [(["--record"], "--state FOLDER"), (["--anew"], "without --record")])
def test_recording_that_could_not_go_on_is_refused(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["x", *given])
    parser = argparse.ArgumentParser()
    _recorded.options(parser)
    with pytest.raises(SystemExit, match="2"):
        read_options(parser)
    assert said in capsys.readouterr().err
