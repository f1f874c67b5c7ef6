"""Algorithms of a search, each on formulas that are cheap."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from configs.schema.search import LEARNING, Algorithm, BudgetSpec, SearchSpec
from tests.faults.marks import fault
from tuning.journal import METRICS, Progress
from tuning.pareto import Parts, Trial, choose, parts, score
from tuning.replay import NUMBER, Replay
from tuning.search import Judge, _algorithm, _blind
from tuning.space import param_space

ALGORITHMS = get_args(Algorithm)
SPACE = {
    "kind": {"choice": ["wide", "deep", [1, 2]]},
    "layers": {"randint": [1, 7]},
    "rate": {"loguniform": [1e-5, 1e-1]},
    "sparsity": {"uniform": [0, 1]},
    "width": {"quniform": [32, 256, 32]},
}
COUNTED = {name: SPACE[name] for name in ("kind", "layers", "width")}
BUDGET = BudgetSpec.model_validate({"min_retention": 0.9, "margin": 0})
JUDGE = Judge(
    lambda metrics: score(metrics, BUDGET), "budget", lambda metrics: parts(metrics, BUDGET)
)  # the cheapest that keeps 90 %


def spec(algorithm: str, **fields: Any) -> SearchSpec:
    space = COUNTED if algorithm == "grid" else SPACE
    return SearchSpec.model_validate({"algorithm": algorithm, "space": space, "trials": 60, **fields})


def model(values: Mapping[str, Any]) -> dict[str, float]:
    """What a model of these values would come to: cost grows with size, and a small one keeps less."""
    size = values["layers"] * values["width"] / (6 * 256)
    off = abs(math.log10(values.get("rate", 1e-3)) + 3) / 4 + {"wide": 0.0, "deep": 0.02}.get(str(values["kind"]), 0.05)
    dense = 1 - 0.5 * values.get("sparsity", 0.0)
    retention = 1 - 0.3 * math.exp(-6 * size * dense) - 0.1 * off
    return {"metric": retention, "retention": retention, "p95_ms": 1 + 20 * size * dense, "megabytes": 1 + 30 * size}


def searched(
    folder: Path, asked: SearchSpec, judge: Judge = JUDGE, kill_at: frozenset[int] = frozenset(), order: int = 0
) -> list[Trial]:
    """A search one after the other, or side by side where trials end in an `order` by chance; without processes."""
    chance = random.Random(order)

    def started() -> tuple[Progress, Replay]:
        progress = Progress(folder, asked.trials, judge.told)
        points = [progress.values[number] for number in progress.before]
        inner = _algorithm(asked, asked.trials, points, judge.parts)
        replay = Replay(inner, progress, _blind(asked, asked.trials), asked.concurrent, judge.score)
        replay.set_search_properties("score", "max", param_space(asked.space))
        return progress, replay

    progress, replay = started()
    running: list[dict[str, Any]] = []
    while len(progress.ended) < asked.trials:
        if len(progress.ended) in kill_at:
            kill_at -= {len(progress.ended)}
            progress.journal.close()
            running.clear()
            progress, replay = started()
        while len(running) < asked.concurrent and isinstance(values := replay.suggest(""), dict):
            running.append(dict(values))
        assert running
        ended = running.pop(chance.randrange(len(running)))
        number = ended.pop(NUMBER)
        progress.end(number, {METRICS: model(ended)})
    progress.journal.close()
    return [
        Trial(str(number), progress.values[number], model(progress.values[number])) for number in range(asked.trials)
    ]


def best(trials: list[Trial]) -> float:
    """p95 x megabytes of the winner; infinite where none is inside the budget."""
    winner = choose(trials, BUDGET).winner
    return winner.metrics["p95_ms"] * winner.metrics["megabytes"] if winner else math.inf


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ray_tune_can_keep_a_searcher(algorithm: str):
    from ray import cloudpickle

    asked = few(algorithm)
    kept = cloudpickle.dumps(_algorithm(asked, asked.trials, (), JUDGE.parts))  # pyright: ignore[reportPrivateImportUsage]
    assert cloudpickle.loads(kept)


def few(algorithm: str) -> SearchSpec:
    return spec(algorithm, trials=200 if algorithm == "grid" else 10, concurrent=2, seed=4)


@fault("search, its driver killed at random")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_suggests_the_same_after_kills_and_in_whatever_order_trials_end(algorithm: str, tmp_path: Path):
    asked = few(algorithm)
    first = searched(tmp_path / "first", asked)
    kills = frozenset(random.Random(1).sample(range(1, 10), 3))
    again = searched(tmp_path / "again", asked, kill_at=kills, order=7)
    assert [each.values for each in again] == [each.values for each in first]
    other = searched(tmp_path / "other", asked.model_copy(update={"seed": 5}))
    assert [each.values for each in other] != [each.values for each in first]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_lie_in_their_domains_as_a_recipe_holds_them(algorithm: str, tmp_path: Path):
    for trial in searched(tmp_path, few(algorithm)):
        values = trial.values
        assert values["kind"] in SPACE["kind"]["choice"]
        assert values["layers"] in range(1, 7) and values["width"] in range(32, 257, 32)
        assert {type(each) for each in values.values()} <= {int, float, str, list}


def test_a_grid_is_every_combination_once(tmp_path: Path):
    trials = searched(tmp_path, spec("grid", trials=200))
    wanted = itertools.product(["wide", "deep", [1, 2]], range(1, 7), range(32, 257, 32))
    assert sorted(str(list(each.values.values())) for each in trials) == sorted(
        str([kind, layers, float(width)]) for kind, layers, width in wanted
    )


def test_sobol_fills_a_space_more_evenly_than_chance(tmp_path: Path):
    space = {name: {"uniform": [0, 1]} for name in "ab"}

    def emptiest(algorithm: str, seed: int) -> int:
        """Of 16 squares."""
        asked = SearchSpec.model_validate({"algorithm": algorithm, "space": space, "trials": 64, "seed": seed})
        inner = _algorithm(asked, asked.trials)
        inner.set_search_properties("score", "max", param_space(asked.space))
        places = [inner.suggest(str(number)) for number in range(64)]
        squares = [(int(4 * each["a"]), int(4 * each["b"])) for each in places]
        return min(squares.count(each) for each in itertools.product(range(4), range(4)))

    assert [emptiest("sobol", seed) for seed in range(3)] == [4] * 3  # 64 points, 16 squares
    assert max(emptiest("random", seed) for seed in range(3)) < 4


@pytest.mark.parametrize(("algorithm", "trials"), [("hyperopt", 40), ("gp", 16)])
def test_what_learns_reaches_a_cheaper_model_inside_the_budget_than_chance(algorithm: str, trials: int, tmp_path: Path):
    def median(name: str) -> float:
        return statistics.median(
            best(searched(tmp_path / name / str(seed), spec(name, seed=seed, trials=trials))) for seed in range(3)
        )

    assert median(algorithm) < median("random")


@pytest.mark.parametrize("algorithm", ["gp", "nsga2"])
def test_a_sampler_that_is_told_the_limits_suggests_more_inside_them(algorithm: str, tmp_path: Path):
    blind = JUDGE._replace(parts=lambda metrics: JUDGE.parts(metrics)._replace(limits={}))

    def inside(judge: Judge) -> int:
        trials = searched(tmp_path / str(judge is blind), spec(algorithm, seed=3, trials=16), judge)
        return sum(JUDGE.score(each.metrics) > 0 for each in trials[4:])

    assert inside(JUDGE) > inside(blind)


def test_several_objectives_find_a_front_that_is_wider_than_that_of_one(tmp_path: Path):
    """The hypervolume of retention and p95, both as shares."""

    def volume(algorithm: str) -> float:
        found = [
            (each.metrics["retention"], 1 - each.metrics["p95_ms"] / 21)
            for seed in range(3)
            for each in searched(tmp_path / f"{algorithm}-{seed}", spec(algorithm, seed=seed, trials=60))
        ]
        front = [one for one in found if not any(two[0] >= one[0] and two[1] >= one[1] and two != one for two in found)]
        total, least = 0.0, 0.0
        for retention, speed in sorted(set(front), reverse=True):
            total, least = total + (speed - least) * retention, speed
        return total

    assert volume("nsga2") > volume("sobol") * 0.99


@pytest.mark.parametrize("algorithm", sorted(LEARNING))
@pytest.mark.parametrize("result", ["nan", "fails", "outside"])
def test_trials_that_come_to_nothing_end_a_search_as_others_do(algorithm: str, result: str, tmp_path: Path):
    judge = Judge(JUDGE.score, "other", lambda _: Parts([math.nan] * 3, {}, math.nan)) if result == "nan" else JUDGE
    asked = spec(algorithm, trials=12)
    progress = Progress(tmp_path, asked.trials, None)
    inner = _algorithm(asked, asked.trials, (), judge.parts)
    replay = Replay(inner, progress, _blind(asked, asked.trials), 1, judge.score)
    replay.set_search_properties("score", "max", param_space(asked.space))
    for _ in range(asked.trials):
        values = dict(replay.suggest("") or {})
        number = values.pop(NUMBER)
        outside = model(values) | {"retention": 0.1, "metric": 0.1}
        progress.end(number, {"error": "ValueError: no"} if result == "fails" else {METRICS: outside})
    assert len({str(each) for each in progress.values.values()}) == asked.trials
