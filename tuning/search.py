"""Search over any objective with Ray Tune: `objective(values, trial id) -> metrics`, of which `score` is maximised."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from cluster import cores, settings
from cluster.settings import Settings
from configs.given import root_of
from configs.schema.search import LEARNING, SearchSpec
from tuning.journal import BY, ERROR, METRICS, SCORE, Progress, Score, leave
from tuning.pareto import METRIC, Parts, Trial
from tuning.space import param_space, plain

if TYPE_CHECKING:
    from tuning.replay import Replay

Objective = Callable[[dict[str, Any], str], Mapping[str, float]]
TRIAL_MEMORY = 1 << 20  # bytes; Ray Tune wants some resource, and every CPU belongs to what a trial starts
TRIES = 2  # of a trial that fails

log = logging.getLogger(__name__)


def parts_of_score(metrics: Mapping[str, float]) -> Parts:
    """The score of a trial is all that is known of it."""
    score = metrics.get(SCORE, math.nan)
    return Parts([score], {}, score)


class Judge(NamedTuple):
    """The worth of a trial by its metrics, and a description of this judge for the journal."""

    score: Score = itemgetter(SCORE)  # which is maximised
    told: Any = None  # JSON in the journal; equal for judges that score alike
    parts: Callable[[Mapping[str, float]], Parts] = parts_of_score  # of the score, for whom takes them apart


BY_SCORE = Judge()


def search(objective: Objective, spec: SearchSpec, folder: Path, judge: Judge = BY_SCORE, by: str = "") -> list[Trial]:
    """Run the trials; a trial that raises twice, or whose score is no number, is a failed one, and the others go on.

    A search that was killed goes on in its `folder`: trials that have ended keep their results, trials that were begun
    are begun again under the same id, and the next ones are those that would have followed. So does a search that has
    ended, with another judge or more trials: nothing is measured again, and the next trials are drawn from today's
    scores. `by` names who asks; a trial bears the name of who made it.

    The objective runs in processes of its own without a CPU to itself: what it starts (training workers) asks Ray
    for cores, so the trials side by side are limited by `spec.concurrent`. Those processes have the driver's
    `cluster.settings`.
    """
    from tuning.replay import Replay, name

    # Where it stands.
    trials = spec.trials if spec.space else 1
    if trials < spec.trials:
        log.info("search.space is empty: one trial instead of %d equal ones", spec.trials)
    if spec.algorithm == "grid":
        log.info("a grid of %d combinations", trials)
    blind = _blind(spec, trials)
    progress = Progress(folder, trials, {"judge": judge.told, "blind": blind, "concurrent": spec.concurrent})
    _log_earlier(progress, trials)

    # What is left.
    inner = _algorithm(spec, trials, [progress.values[number] for number in progress.before], judge.parts)
    enough = functools.partial(_enough, spec, progress, judge)
    replay = Replay(inner, progress, blind, spec.concurrent, judge.score, enough)
    seconds = progress.seconds_left(spec.max_seconds)
    if progress.left and seconds != 0 and (progress.begun or not enough()):
        _run(_trainable(objective, folder, judge, by), replay, progress, spec, trials, judge, seconds)
    if len(progress.values) < trials and (reason := enough()):
        log.info("no further trial after %d of %d: %s", len(progress.values), trials, reason)
    progress.journal.close()

    # What came out.
    return [
        Trial(name(number), values, entry.get(METRICS, {}), entry.get(ERROR), entry.get(BY, ""))
        for number, values in sorted(progress.values.items())
        if (entry := progress.ended.get(number, {ERROR: "not measured before search.max_seconds were over"}))
    ]


def _enough(spec: SearchSpec, progress: Progress, judge: Judge) -> str | None:
    """Why no new trial is to be begun; None where all of them are."""
    ended = sorted(progress.ended)
    found = {number: progress.ended[number].get(METRICS) for number in ended}
    if spec.good_enough is not None:
        for number, metrics in found.items():
            limits = judge.parts(metrics).limits.values() if metrics else ()
            if metrics and metrics.get(METRIC, -math.inf) >= spec.good_enough and all(each <= 0 for each in limits):
                return f"trial {number + 1:02d} is inside the budget with {METRIC} {metrics[METRIC]:.4g}"
    scores = [judge.score(metrics) if metrics else -math.inf for metrics in found.values()]
    if spec.no_gain is not None and scores and len(scores) - 1 - scores.index(max(scores)) >= spec.no_gain:
        return f"{spec.no_gain} in a row are no better than trial {ended[scores.index(max(scores))] + 1:02d}"
    return None


def _log_earlier(progress: Progress, trials: int) -> None:
    """Log which trials of earlier processes this one takes up, if any."""
    if progress.before:
        log.info(
            "judged by the %d trials of the search before, %d more to come; judged so from the start, it would have "
            "tried other values",
            len(progress.before),
            progress.left,
        )
    elif progress.values:
        log.info("the search goes on: %d of %d trials have ended", len(progress.ended), trials)


def _trainable(objective: Objective, folder: Path, judge: Judge, by: str) -> Callable[..., dict[str, Any]]:
    """The function that Ray Tune calls for each trial, in a process of its own: leaves a result, returns the score."""
    import ray

    from tuning.replay import NUMBER, name

    def trainable(values: dict[str, Any], driver: Settings) -> dict[str, Any]:
        number = values.pop(NUMBER)
        leave(folder, number, None)
        try:
            driver.enter(ray.util.get_node_ip_address())
            metrics = objective(plain(values), name(number))
            measured = {key: float(value) for key, value in metrics.items()}
            score = judge.score(measured)
            if not math.isfinite(score):
                raise ValueError(f"its score is {score}")
        except Exception as error:
            leave(folder, number, {ERROR: _first_cause(error)})
            raise
        leave(folder, number, {METRICS: measured, BY: by})
        return {SCORE: score}

    return trainable


def _run(
    trainable: Callable[..., dict[str, Any]],
    replay: Replay,
    progress: Progress,
    spec: SearchSpec,
    trials: int,
    judge: Judge,
    seconds: float | None,
) -> None:
    """Have Ray Tune run the trials that are left, for at most `seconds`."""
    import ray
    from ray import tune
    from ray.tune.execution import class_cache

    from tuning.replay import Notes

    driver = settings.of_this_process(ray.util.get_node_ip_address())
    for variable in [each for each in class_cache.ENV_VARS_TO_PROPAGATE if each.startswith(settings.PREFIXES)]:
        class_cache.ENV_VARS_TO_PROPAGATE.discard(variable)  # keys of S3, which Tune hands over in a `runtime_env`
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, driver=driver), {"memory": TRIAL_MEMORY}),
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
            storage_path=str(progress.folder / "ray"),
            verbose=0,
            callbacks=[Notes(progress, trials, judge.score)],
            failure_config=tune.FailureConfig(max_failures=TRIES - 1),
        ),
    )
    with cores.for_cores():
        tuner.fit()


def _algorithm(
    spec: SearchSpec,
    trials: int,
    points: Sequence[Mapping[str, Any]] = (),
    parts: Callable[[Mapping[str, float]], Parts] = parts_of_score,
) -> Any:
    """What suggests values, after `points` that were tried before; None where nothing is searched."""
    if not spec.space:
        return None
    from tuning.samplers import ENGINES

    return ENGINES[spec.algorithm](spec, points, _blind(spec, trials), parts)


def _blind(spec: SearchSpec, trials: int) -> int:
    """The number of trials drawn before anything is learned: a quarter; with Ray's 20 a small search would be random.

    It is at least the number that run at once: asked before any result is in, TPE proposes near copies of running ones.
    """
    return max(1, round(trials / 4), min(spec.concurrent, trials)) if spec.algorithm in LEARNING else trials


def _first_cause(error: BaseException) -> str:
    error = root_of(error)
    if isinstance(error, ValidationError):  # its last line only says where to read about such errors
        first = error.errors()[0]
        return ": ".join(filter(None, [type(error).__name__, ".".join(map(str, first["loc"])), first["msg"]]))
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
