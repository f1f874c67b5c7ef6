from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cluster.session import JobError
from tests.faults import fault
from tuning.journal import Journal, Progress
from tuning.replay import NUMBER, Replay
from tuning.search import _algorithm
from tuning.space import param_space
from tuning.spec import SearchSpec

TRIALS = 12
SPEC = SearchSpec.model_validate(
    {"trials": TRIALS, "seed": 5, "space": {"rate": {"loguniform": [1e-5, 1e-1]}, "layers": {"choice": [1, [0, 2]]}}}
)


def started(folder: Path, spec: SearchSpec = SPEC) -> tuple[Progress, Replay]:
    """A process of the search."""
    progress = Progress(folder, spec.trials)
    replay = Replay(_algorithm(spec, spec.trials), progress)
    replay.set_search_properties("score", "max", param_space(spec.space))
    return progress, replay


def found(values: dict[str, Any]) -> dict[str, Any]:
    if values["layers"] == 1 and values["rate"] > 1e-2:
        return {"error": "ValueError: too fast"}
    return {"metrics": {"score": -abs(math.log10(values["rate"]) + 3)}}


def finish(folder: Path) -> list[dict[str, Any]]:
    """What is left of the search, one trial after the other; all its trials."""
    progress, replay = started(folder)
    while progress.left > 0 and (values := replay.suggest("")):
        number = values.pop(NUMBER)
        replay.tell(progress.end(number, found(values)))
        progress.left -= 1
    return [progress.values[number] | found(progress.values[number]) for number in sorted(progress.ended)]


@fault("search, its driver killed at random")
def test_a_search_killed_after_any_entry_ends_with_the_trials_of_an_unkilled_one(tmp_path: Path):
    whole = finish(tmp_path / "whole")
    assert len(whole) == TRIALS and any("error" in each for each in whole)
    lines = (tmp_path / "whole" / "journal").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * TRIALS
    for count in range(len(lines)):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "journal").write_bytes(b"".join(lines[:count]) + lines[count][:7])
        assert finish(folder) == whole


@fault("search, its driver killed at random")
def test_without_its_journal_a_search_goes_another_way(tmp_path: Path):
    """The searcher alone, told nothing of what was found, draws other values."""
    whole = finish(tmp_path / "whole")
    _, replay = started(tmp_path / "bare")
    bare = [{key: value for key, value in (replay.suggest("") or {}).items() if key != NUMBER} for _ in range(TRIALS)]
    assert bare[0] == {key: whole[0][key] for key in SPEC.space}
    assert bare != [{key: each[key] for key in SPEC.space} for each in whole]


def test_a_journal_of_other_values_is_refused(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.append({"asked": 0, "values": {"rate": 0.5, "layers": 1}})
    journal.close()
    with pytest.raises(JobError, match=r"begun by another version, which drew other values; remove .* to begin"):
        started(tmp_path)
