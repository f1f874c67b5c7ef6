from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from cluster import launch, session
from cluster.record import Cluster
from configs.schema.engine import EngineSpec
from configs.schema.search import SearchSpec
from tests.faults.marks import fault
from tests.processes import ROOT
from tests.tuning.searching import SPACE as SEARCHED
from tuning.journal import METRICS, Progress
from tuning.pareto import Parts, Trial
from tuning.replay import Replay
from tuning.search import Judge, _algorithm, _blind, _enough, _first_cause, search
from tuning.space import param_space, plain

PATIENCE_SECONDS = 60
SECONDS_TO_BEGIN = 30  # for a training to start in, before its search is over
SECONDS_TO_STAY = 10  # that show that nobody removes a placement group
SPACE = {
    "rate": {"loguniform": [1e-5, 1e-1]},
    "layers": {"choice": [1, 2, [0, 2]]},
    "sparsity": {"uniform": [0, 1]},
}


def spec(**fields: Any) -> SearchSpec:
    return SearchSpec.model_validate({"space": SPACE, **fields})


def cost(values: dict[str, Any], trial_id: str) -> dict[str, float]:
    """Best at a sparsity of 0.3; refuses the value that no model could have."""
    if values["layers"] == [0, 2]:
        raise ValueError(f"two lines:\nlayers {values['layers']} of {trial_id} do not exist")
    return {"score": -abs(values["sparsity"] - 0.3), "metric": 0.9, "pid": float(os.getpid())}


def at_its_defaults(values: dict[str, Any], trial_id: str) -> dict[str, float]:
    assert values == {}
    return {"score": 0.5, "metric": 0.5}


def without_a_score(values: dict[str, Any], trial_id: str) -> dict[str, float]:
    return {"metric": 0.5}


@pytest.fixture(scope="module")
def joined(on_cluster: Cluster) -> None:
    session.connect()


@pytest.fixture(scope="module")
def found(joined: None, tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    space = SPACE | {"layers": {"choice": [1, [0, 2]]}}
    asked = spec(trials=4, concurrent=2, algorithm="random", seed=1, space=space)
    return search(cost, asked, tmp_path_factory.mktemp("found"))


def test_there_are_exactly_as_many_trials_as_asked_for(found: list[Trial]):
    assert len(found) == len({trial.id for trial in found}) == 4
    assert len({trial.values["rate"] for trial in found}) == 4


def test_a_trial_that_raises_is_reported_with_its_reason_and_the_others_finish(found: list[Trial]):
    failed = [trial for trial in found if trial.error is not None]
    finished = [trial for trial in found if trial.error is None]
    assert failed and finished
    for trial in failed:
        assert trial.values["layers"] == [0, 2]
        assert trial.error == f"ValueError: layers [0, 2] of {trial.id} do not exist"
        assert trial.metrics == {}
    assert {trial.values["layers"] for trial in finished} == {1}


def test_a_trial_holds_what_the_objective_measured_and_nothing_of_ray(found: list[Trial]):
    for trial in found:
        if trial.error is None:
            sparsity = trial.values["sparsity"]
            assert isinstance(sparsity, float)
            assert trial.metrics == {
                "score": -abs(sparsity - 0.3),
                "metric": 0.9,
                "pid": trial.metrics["pid"],
            }
            assert trial.metrics["pid"] != os.getpid()


def test_an_empty_space_is_one_trial(joined: None, tmp_path: Path):
    (trial,) = search(at_its_defaults, spec(trials=5, space={}), tmp_path)
    assert (trial.values, trial.metrics, trial.error) == ({}, {"score": 0.5, "metric": 0.5}, None)


def falling(values: dict[str, Any], trial_id: str) -> dict[str, float]:
    return {"score": -abs(int(trial_id) - 2), "metric": 0.5 + int(trial_id) / 10, "size": 10 - int(trial_id)}


def test_a_search_begins_no_further_trial_once_a_rule_says_so_and_goes_on_without_it(joined: None, tmp_path: Path):
    asked = spec(trials=5, algorithm="sobol")
    ended = search(falling, asked.model_copy(update={"no_gain": 1}), tmp_path)
    assert [each.id for each in ended] == ["01", "02", "03"]
    assert search(falling, asked.model_copy(update={"no_gain": 1}), tmp_path) == ended
    whole = search(falling, asked, tmp_path)
    assert len(whole) == 5 and whole[:3] == ended


@pytest.mark.parametrize(
    ("rule", "largest", "trials", "reason"),
    [
        ({"no_gain": 3}, 9, 5, "3 in a row are no better than trial 02"),
        ({"no_gain": 7}, 9, 8, None),
        ({"good_enough": 0.7}, 9, 2, "trial 02 is inside the budget with metric 0.7"),
        ({"good_enough": 0.7}, 5, 5, "trial 05 is inside the budget with metric 1"),
        ({"good_enough": 2}, 9, 8, None),
        ({}, 9, 8, None),
    ],
)
def test_rules_end_a_search_by_what_has_ended(
    tmp_path: Path, rule: dict[str, Any], largest: int, trials: int, reason: str | None
):
    progress, asked = Progress(tmp_path, 8), spec(trials=8, **rule)
    judge = Judge(parts=lambda metrics: Parts([], {"size": metrics["size"] - largest}, 0.0))
    for number in range(8):
        if _enough(asked, progress, judge):
            break
        progress.begin({})
        progress.end(number, {METRICS: falling({}, str(number + 1))})
    assert (len(progress.ended), _enough(asked, progress, judge)) == (trials, reason)


def test_an_objective_without_a_score_fails_its_trial(joined: None, tmp_path: Path):
    (trial,) = search(without_a_score, spec(trials=1), tmp_path)
    assert trial.error == "KeyError: 'score'"


def searching(folder: Path, environment: dict[str, str], trials: int) -> subprocess.Popen[str]:
    """The process of a search; its output goes to a file in the folder."""
    command = [sys.executable, "-m", "tests.tuning.searching", str(folder), str(trials), "3"]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@fault("search, its driver killed at random", runs=10)
def test_a_killed_search_ends_with_the_trials_of_an_unkilled_one(
    environment: dict[str, str], tmp_path: Path, seed: int
):
    trials = 12 if seed else 3
    wanted = suggestions(SearchSpec.model_validate({"space": SEARCHED, "trials": trials, "seed": 3}))
    journal, last = tmp_path / "search" / "journal", 1 + 2 * trials
    kill_after = int(np.random.default_rng(seed).integers(2, last))  # lines
    with searching(tmp_path, environment, trials) as driver:
        while len(lines(journal)) < kill_after and driver.poll() is None:
            time.sleep(0.01)
        driver.kill()
    ended = [number for number in range(trials) if (tmp_path / "search" / f"result-{number}.json").exists()]
    calls = lines(tmp_path / "calls")
    with searching(tmp_path, environment, trials) as driver:
        assert driver.wait(timeout=300) == 0, (tmp_path / "said").read_text()
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert [values for _, values, _, _ in found] == wanted
    assert [metrics for _, _, metrics, _ in found] == [{"score": -abs(each["sparsity"] - 0.3)} for each in wanted]
    again = {line.split()[0] for line in lines(tmp_path / "calls")[len(calls) :]}
    assert not again & {f"{number + 1:02d}" for number in ended}


def test_a_trial_that_ends_before_an_earlier_one_changes_no_suggestion(joined: None, tmp_path: Path):
    asked = spec(trials=5, concurrent=2, space=SEARCHED)
    progress = Progress(tmp_path / "in order", asked.trials)
    replay = Replay(_algorithm(asked, asked.trials), progress, _blind(asked, asked.trials), asked.concurrent)
    replay.set_search_properties("score", "max", param_space(asked.space))
    for number in range(asked.trials):
        progress.end(number, {"metrics": {"score": -(replay.suggest("") or {})["sparsity"]}})

    journal = tmp_path / "searched" / "journal"

    def first_ends_last(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        while trial_id == "01" and '"ended": 1' not in journal.read_text(encoding="utf-8"):
            time.sleep(0.01)
        return {"score": -values["sparsity"]}

    found = search(first_ends_last, asked, tmp_path / "searched")
    ends = [json.loads(line.partition(" ")[2]).get("ended") for line in lines(journal)]
    assert ends.index(1) < ends.index(0)
    assert [trial.values for trial in found] == list(progress.values.values())


def test_a_search_that_is_judged_otherwise_begins_no_trial_and_one_for_more_begins_those(joined: None, tmp_path: Path):
    calls = tmp_path / "calls"

    def counted(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        with calls.open("a", encoding="utf-8") as file:
            file.write(f"{trial_id}\n")
        return {"sparsity": values["sparsity"]}

    low = Judge(lambda metrics: -metrics["sparsity"], "low")
    high = Judge(lambda metrics: metrics["sparsity"], "high")
    before = search(counted, spec(trials=2), tmp_path / "search", low, by="first")
    assert [each.by for each in before] == ["first"] * 2
    assert search(counted, spec(trials=2), tmp_path / "search", high, by="second") == before
    assert lines(calls) == ["01", "02"]
    after = search(counted, spec(trials=3), tmp_path / "search", high, by="third")
    assert lines(calls) == ["01", "02", "03"]
    assert after[:2] == before and after[2].by == "third"
    assert len({each.values["sparsity"] for each in after}) == 3


def test_a_trial_that_fails_is_tried_once_more(joined: None, tmp_path: Path):
    def fails_at_first(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        tried = tmp_path / "tried"
        if not tried.exists():
            tried.touch()
            raise ValueError("no room")
        return {"score": 0.5}

    (trial,) = search(fails_at_first, spec(trials=1), tmp_path)
    assert (trial.metrics, trial.error) == ({"score": 0.5}, None)


def test_a_score_that_is_no_number_is_a_failure_and_a_killed_trial_says_so(joined: None, tmp_path: Path):
    def killed_or_nan(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        if trial_id == "01":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"score": float("nan")}

    killed, nan = search(killed_or_nan, spec(trials=2, concurrent=2), tmp_path)
    assert killed.metrics == nan.metrics == {}
    assert killed.error and "died" in killed.error
    assert nan.error == "ValueError: its score is nan"


def test_what_a_trial_could_not_take_is_named_with_its_field():
    with pytest.raises(ValidationError) as refused:
        EngineSpec.model_validate({"loss_scale": {"window": 0}})
    said = "ValidationError: loss_scale.window: Input should be greater than or equal to 1"
    assert _first_cause(refused.value) == said


def suggestions(asked: SearchSpec, best: float = 0.3) -> list[dict[str, Any]]:
    """What the algorithm suggests, one trial after the other, where `best` is the best sparsity. Runs no process."""
    algorithm = _algorithm(asked, asked.trials)
    algorithm.set_search_properties("score", "max", param_space(asked.space))
    made = []
    for number in range(asked.trials):
        suggested = plain(algorithm.suggest(str(number)))
        made.append(suggested)
        algorithm.on_trial_complete(str(number), {"score": -abs(suggested["sparsity"] - best)})
    return made


def test_the_same_seed_suggests_the_same_values_and_another_seed_others():
    assert suggestions(spec(trials=12, seed=3)) == suggestions(spec(trials=12, seed=3))
    assert suggestions(spec(trials=12, seed=3)) != suggestions(spec(trials=12, seed=4))


def test_suggestions_lie_in_their_domains_as_a_recipe_holds_them():
    for suggested in suggestions(spec(trials=12)):
        assert suggested["layers"] in [1, 2, [0, 2]]
        assert 1e-5 <= suggested["rate"] <= 1e-1 and 0 <= suggested["sparsity"] <= 1
        assert {type(value) for value in suggested.values()} <= {int, float, list}


def test_what_was_measured_draws_later_suggestions_towards_the_best():
    distances = np.array(
        [[abs(each["sparsity"] - 0.3) for each in suggestions(spec(trials=24, seed=seed))] for seed in range(5)]
    )
    assert np.median(distances[:, 12:]) < np.median(distances[:, :6])


@pytest.mark.parametrize(("trials", "first"), [(8, 2), (12, 3), (24, 6), (40, 10)])
def test_a_quarter_of_the_trials_is_drawn_before_anything_is_learned(trials: int, first: int):
    """Until then, what was measured changes no suggestion."""
    runs = [suggestions(spec(trials=trials, seed=2), best) for best in (0.0, 0.25, 0.5, 0.75, 1.0)]
    agree = [all(each == others[0] for each in others) for others in zip(*runs, strict=True)]
    assert agree == [True] * first + [False] * (trials - first)


def test_random_search_draws_blindly():
    runs = [suggestions(spec(trials=12, algorithm="random"), best) for best in (0.0, 1.0)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("seed", range(4))
def test_trials_that_start_side_by_side_are_no_copies_of_one_another(seed: int):
    """With a single random draw TPE answers the second question by a neighbour of the first."""
    asked = spec(trials=4, concurrent=2, seed=seed, space={"sparsity": {"uniform": [0, 1]}})
    algorithm = _algorithm(asked, asked.trials)
    algorithm.set_search_properties("score", "max", param_space(asked.space))
    first, second = (algorithm.suggest(name)["sparsity"] for name in ("a", "b"))
    assert abs(first - second) > 0.12  # of a range of 1


def train_for_ever(config: dict[str, Any]) -> None:
    """Runs on a training worker."""
    Path(config["begun"]).touch()
    threading.Event().wait()


def die_after(begun: Path) -> None:
    """Runs in the process of a trial, beside its objective."""
    while not begun.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


def groups() -> set[str]:
    """Placement groups that hold something, or wait for it."""
    return {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}


@fault("trial killed or stopped in its training", slow=True)
@pytest.mark.parametrize(("dies", "cleaned"), [(True, True), (False, True), (True, False)])
def test_a_trial_that_ends_in_its_training_leaves_no_placement_group(
    joined: None, tmp_path: Path, dies: bool, cleaned: bool
):
    """A group outlives the controller of its training until the job ends (ray#54305), unless Ray's cleaner is there."""
    before = groups()

    def trains(values: dict[str, Any], trial_id: str) -> dict[str, float]:
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        class Without(PlacementGroupCleanerCallback):
            def after_controller_start(self, train_run_context: Any) -> None:
                pass

        begun = tmp_path / "begun"
        begun.unlink(missing_ok=True)
        if dies:
            threading.Thread(target=die_after, args=(begun,), daemon=True).start()
        told = {"begun": str(begun)}
        with pytest.MonkeyPatch.context() as patch:
            if not cleaned:
                patch.setattr("ray.train.v2.api.data_parallel_trainer.PlacementGroupCleanerCallback", Without)
            launch.fit(f"{__name__}:train_for_ever", told, EngineSpec(cpus_per_worker=1, max_failures=0), tmp_path)
        return {"score": 0.0}

    (trial,) = search(trains, spec(trials=1, max_seconds=None if dies else SECONDS_TO_BEGIN), tmp_path)
    assert (tmp_path / "begun").exists() and trial.error
    deadline = time.monotonic() + (PATIENCE_SECONDS if cleaned else SECONDS_TO_STAY)
    while (left := groups() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    for name in left:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))
    assert bool(left) != cleaned
