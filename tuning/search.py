"""Search over any objective with Ray Tune: `objective(values, trial id) -> metrics`, of which `score` is maximised."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cluster import settings
from cluster.settings import Settings
from configs.schema.search import SearchSpec
from tuning.journal import BY, ERROR, METRICS, SCORE, Progress, Score, leave
from tuning.pareto import Trial
from tuning.space import param_space, plain

Objective = Callable[[dict[str, Any], str], Mapping[str, float]]
TRIAL_MEMORY = 1 << 20  # bytes; Ray Tune wants some resource, and every CPU belongs to what a trial starts
TRIES = 2  # of a trial that fails

log = logging.getLogger(__name__)


class Judge(NamedTuple):
    """What a trial is worth by what it measured, and a description of that, for the journal."""

    score: Score = itemgetter(SCORE)  # which is maximised
    told: Any = None  # JSON; the same of every judge that scores alike


BY_SCORE = Judge()


def search(objective: Objective, spec: SearchSpec, folder: Path, judge: Judge = BY_SCORE, by: str = "") -> list[Trial]:
    """Run the trials; one that raises twice, or whose score is no number, is a failed one, and the others go on.

    A search that was killed goes on in its `folder`: what has ended stays as it was found, what was begun is begun
    again under the same id, what follows is what would have followed. So does one that has ended, with another judge or
    more trials: what was measured is not measured again, and what follows is drawn from today's scores of it. `by`
    names who asks; a trial bears the name of who made it.

    The objective runs in processes of its own without a CPU to itself: what it starts (training workers) asks Ray
    for cores, so the trials side by side are limited by `spec.concurrent`. Those processes have the driver's
    `cluster.settings`.
    """
    import ray
    from ray import tune
    from ray.tune.execution import class_cache

    from tuning.replay import NUMBER, Notes, Replay, name

    trials = spec.trials if spec.space else 1
    if trials < spec.trials:
        log.info("search.space is empty: one trial instead of %d equal ones", spec.trials)
    way = {"judge": judge.told, "blind": _blind(spec, trials), "concurrent": spec.concurrent}
    progress = Progress(folder, trials, way)
    if progress.before:
        log.info(
            "judged by the %d trials of the search before, %d more to come; judged so from the start, it would have "
            "tried other values",
            len(progress.before),
            progress.left,
        )
    elif progress.values:
        log.info("the search goes on: %d of %d trials have ended", len(progress.ended), trials)

    def trainable(values: dict[str, Any], told: Settings) -> dict[str, Any]:
        number = values.pop(NUMBER)
        leave(folder, number, None)
        try:
            told.enter(ray.util.get_node_ip_address())
            found = objective(plain(values), name(number))
            measured = {key: float(value) for key, value in found.items()}
            score = judge.score(measured)
            if not math.isfinite(score):
                raise ValueError(f"its score is {score}")
        except Exception as error:
            leave(folder, number, {ERROR: _first_cause(error)})
            raise
        leave(folder, number, {METRICS: measured, BY: by})
        return {SCORE: score}

    points = [progress.values[number] for number in progress.before]
    inner = _algorithm(spec, trials, points)
    replay = Replay(inner, progress, _blind(spec, trials), spec.concurrent, judge.score)
    seconds = progress.seconds_left(spec.max_seconds)
    if progress.left and seconds != 0:
        told = settings.of_this_process(ray.util.get_node_ip_address())
        for variable in [each for each in class_cache.ENV_VARS_TO_PROPAGATE if each.startswith(settings.PREFIXES)]:
            class_cache.ENV_VARS_TO_PROPAGATE.discard(variable)  # keys of S3, which Tune hands over in a `runtime_env`
        tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, told=told), {"memory": TRIAL_MEMORY}),
            param_space=param_space(spec.space),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                search_alg=replay,
                num_samples=progress.left,
                max_concurrent_trials=spec.concurrent,
                time_budget_s=seconds,
            ),
            run_config=tune.RunConfig(
                name=f"trials-{time.time_ns()}",
                storage_path=str(folder / "ray"),
                verbose=0,
                callbacks=[Notes(progress, trials, judge.score)],
                failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            ),
        ).fit()
    progress.journal.close()
    return [
        Trial(name(number), values, entry.get(METRICS, {}), entry.get(ERROR), entry.get(BY, ""))
        for number, values in sorted(progress.values.items())
        if (entry := progress.ended.get(number, {ERROR: "not measured before search.max_seconds were over"}))
    ]


def _algorithm(spec: SearchSpec, trials: int, points: Sequence[Mapping[str, Any]] = ()) -> Any:
    """TPE after random draws, and after `points` that were tried before; None where nothing is searched."""
    if not spec.space:
        return None
    from tuning.replay import Sampler

    seed = (spec.seed + len(points)) % 2**32  # else it would draw once more what was drawn for the first of them
    return Sampler(spec.space, points, n_initial_points=_blind(spec, trials), random_state_seed=seed)


def _blind(spec: SearchSpec, trials: int) -> int:
    """How many trials are drawn before anything is learned: a quarter, as with Ray's 20 a small search would be random.

    At least as many as run at once: asked before any result is in, TPE proposes near copies of what runs.
    """
    return max(1, round(trials / 4), min(spec.concurrent, trials)) if spec.algorithm == "hyperopt" else trials


def _first_cause(error: BaseException) -> str:
    while (deeper := getattr(error, "cause", None) or error.__cause__) is not None:
        error = deeper
    if isinstance(error, ValidationError):  # whose last line is where to read about such errors
        first = error.errors()[0]
        return ": ".join(filter(None, [type(error).__name__, ".".join(map(str, first["loc"])), first["msg"]]))
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
