from __future__ import annotations

import math
import random
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.session import JobError
from configs.schema.search import SearchSpec
from tests.faults.marks import fault
from tuning.journal import Journal, Progress
from tuning.replay import NUMBER, Notes, Replay
from tuning.search import _algorithm, _blind
from tuning.space import param_space

TRIALS = 12
SPEC = SearchSpec.model_validate(
    {"trials": TRIALS, "seed": 5, "space": {"rate": {"loguniform": [1e-5, 1e-1]}, "layers": {"choice": [1, [0, 2]]}}}
)


def started(folder: Path, spec: SearchSpec = SPEC, least: float | None = None) -> tuple[Progress, Replay]:
    """A process of the search; with `least` what it looks for is a rate just above that."""
    progress = Progress(folder, spec.trials, [least, spec.trials])
    points = [progress.values[number] for number in progress.before]
    blind, inner = _blind(spec, spec.trials), _algorithm(spec, spec.trials, points)
    score = itemgetter("score") if least is None else lambda metrics: -abs(metrics["score"] - math.log10(least))
    replay = Replay(inner, progress, blind, spec.concurrent, score)
    replay.set_search_properties("score", "max", param_space(spec.space))
    return progress, replay


def found(values: dict[str, Any]) -> dict[str, Any]:
    if values["layers"] == 1 and values["rate"] > 1e-2:
        return {"error": "ValueError: too fast"}
    return {"metrics": {"score": -abs(math.log10(values["rate"]) + 3)}}


def finish(folder: Path, spec: SearchSpec = SPEC, least: float | None = None) -> list[dict[str, Any]]:
    """What is left of the search, one trial after the other; all its trials."""
    progress, replay = started(folder, spec, least)
    while progress.left > 0 and (values := replay.suggest("")):
        number = values.pop(NUMBER)
        progress.end(number, found(values))
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


def side_by_side(folder: Path, spec: SearchSpec, chance: random.Random, kills: int = 0) -> list[dict[str, Any]]:
    """The values of all trials of a search whose trials end in an order by chance, some of its processes killed."""
    kill_at = set(chance.sample(range(1, spec.trials), kills))  # trials that have ended
    progress, replay = started(folder, spec)
    running: list[dict[str, Any]] = []
    while len(progress.ended) < spec.trials:
        if len(progress.ended) in kill_at:
            kill_at.remove(len(progress.ended))
            progress.journal.close()
            running.clear()
            progress, replay = started(folder, spec)
        while len(running) < spec.concurrent and (values := replay.suggest("")):
            running.append(values)
        assert running, "a suggestion waits for a trial that nobody runs"
        ended = running.pop(chance.randrange(len(running)))
        progress.end(ended.pop(NUMBER), found(ended))
    progress.journal.close()
    return [progress.values[number] for number in range(spec.trials)]


@pytest.mark.parametrize("concurrent", [2, 3])
def test_the_same_seed_suggests_the_same_whatever_order_trials_end_in(tmp_path: Path, concurrent: int):
    spec = SPEC.model_copy(update={"concurrent": concurrent})
    first, *others = [
        side_by_side(tmp_path / str(order), spec, random.Random(order), kills=min(order, 4)) for order in range(12)
    ]
    assert len(first) == len({each["rate"] for each in first}) == TRIALS
    assert all(each == first for each in others)


def test_a_suggestion_waits_for_no_other_trials_than_those_it_is_made_of(tmp_path: Path):
    progress, replay = started(tmp_path, SPEC.model_copy(update={"concurrent": 2}))
    blind = _blind(SPEC, TRIALS)
    numbers = [(replay.suggest("") or {}).get(NUMBER) for _ in range(blind)]
    assert numbers == list(range(blind)), "what is drawn blindly waits for nobody"
    good = {"metrics": {"score": 0.5}}
    for number in range(1, blind):
        progress.end(number, good)
    assert replay.suggest("") is None
    progress.end(0, good)
    assert (replay.suggest("") or {})[NUMBER] == blind


def test_what_a_failed_trial_came_to_when_it_was_tried_again_changes_no_earlier_suggestion(tmp_path: Path):
    whole = finish(tmp_path)
    failed = [number for number, each in enumerate(whole) if "error" in each]
    progress, _ = started(tmp_path)
    assert progress.begun == failed
    progress.end(failed[0], {"metrics": {"score": 0.1}})
    again, _ = started(tmp_path)
    assert again.values == progress.values


def rates(trials: list[dict[str, Any]]) -> list[float]:
    return [each["rate"] for each in trials]


MORE = SPEC.model_copy(update={"trials": 2 * TRIALS})


@pytest.mark.parametrize("algorithm", ["hyperopt", "random"])
def test_a_search_for_more_trials_keeps_those_that_were_made_and_tries_other_values(tmp_path: Path, algorithm: str):
    spec, more = (each.model_copy(update={"algorithm": algorithm}) for each in (SPEC, MORE))
    before = finish(tmp_path, spec)
    after = finish(tmp_path, more)
    assert after[:TRIALS] == before
    assert len(set(rates(after))) == 2 * TRIALS
    assert finish(tmp_path, more) == after


def test_a_search_that_is_judged_otherwise_learns_from_what_the_trials_are_worth_then(tmp_path: Path):
    """Before, the best rate is 1e-3; afterwards it is one that is a hundred times larger or smaller."""
    off: dict[str, list[float]] = {"before": [], "afterwards": []}
    for seed in range(4):
        finish(tmp_path / str(seed), SPEC.model_copy(update={"seed": seed}))
        whole = rates(finish(tmp_path / str(seed), MORE.model_copy(update={"seed": seed}), least=1e-2))
        for name, part in (("before", whole[:TRIALS]), ("afterwards", whole[TRIALS:])):
            off[name] += [abs(abs(math.log10(rate) + 3) - 2) for rate in part]
    assert np.median(off["afterwards"]) < np.median(off["before"])


@fault("search, its driver killed at random")
def test_a_search_judged_otherwise_and_killed_after_any_entry_ends_as_an_unkilled_one(tmp_path: Path):
    finish(tmp_path / "whole")
    before = (tmp_path / "whole" / "journal").read_bytes()
    whole = finish(tmp_path / "whole", MORE, least=1e-2)
    lines = (tmp_path / "whole" / "journal").read_bytes().removeprefix(before).splitlines(keepends=True)
    assert len(lines) == 1 + 2 * TRIALS
    for count in range(0, len(lines), 5):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "journal").write_bytes(before + b"".join(lines[:count]))
        assert finish(folder, MORE, least=1e-2) == whole


def test_a_random_search_waits_for_no_trial(tmp_path: Path):
    _, replay = started(tmp_path, SPEC.model_copy(update={"algorithm": "random"}))
    assert [(replay.suggest("") or {})[NUMBER] for _ in range(TRIALS)] == list(range(TRIALS))


def test_every_look_of_ray_tune_at_its_trials_is_a_sign_of_life(tmp_path: Path):
    progress, _ = started(tmp_path)
    assert not (tmp_path / "alive").exists()
    Notes(progress, TRIALS).on_step_end(1, [])
    assert (tmp_path / "alive").exists()


def test_a_journal_of_other_values_is_refused(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.append({"asked": 0, "values": {"rate": 0.5, "layers": 1}})
    journal.close()
    with pytest.raises(JobError, match=r"begun by another version, which drew other values; remove .* to begin"):
        started(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "its process died"),
        ("", "its process died"),
        ("Failure # 1 (occurred at 10-00)\n", "its process died"),
        ("Failure # 1 (occurred at 10-00)\nActorDiedError:\n the worker\n", "ActorDiedError: the worker"),
        (
            "Failure # 1 (occurred at 10-00)\nFirst\nFailure # 2 (occurred at 11-00)\nLast\n",
            "Last",
        ),
    ],
    ids=["no file", "empty", "nothing below", "a reason", "the last of two"],
)
def test_a_trial_whose_process_died_fails_in_rays_words(tmp_path: Path, text: str | None, said: str):
    progress, replay = started(tmp_path / "search")
    number = (replay.suggest("") or {})[NUMBER]
    (tmp_path / "error.txt").write_text(text or "")
    file = None if text is None else str(tmp_path / "error.txt")
    trial: Any = SimpleNamespace(config={NUMBER: number}, error_file=file, trial_id="a", num_failures=1)
    Notes(progress, TRIALS).on_trial_error(0, [trial], trial)
    assert progress.ended[number]["error"] == said
