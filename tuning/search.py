"""Search over any objective with Ray Tune: `objective(values, trial id) -> metrics`, of which `score` is maximised."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuning.pareto import Trial
from tuning.space import param_space, plain
from tuning.spec import SearchSpec

Objective = Callable[[dict[str, Any], str], Mapping[str, float]]
SCORE = "score"
TRIAL_MEMORY = 1 << 20  # bytes; Ray Tune wants some resource, and every CPU belongs to what a trial starts
MEASURED = "measured"  # apart from what Ray adds to a result: process ids, times, counters

log = logging.getLogger(__name__)


def search(objective: Objective, spec: SearchSpec, folder: Path) -> list[Trial]:
    """Run the trials; a trial that raises is a failed one and the others go on. `folder` is for Ray's own notes.

    The objective runs in processes of its own without a CPU to itself: what it starts (training workers) asks Ray
    for cores, so the trials side by side are limited by `spec.concurrent`.
    """
    from ray import tune

    trials = spec.trials if spec.space else 1
    if trials < spec.trials:
        log.info("search.space is empty: one trial instead of %d equal ones", spec.trials)

    def trainable(values: dict[str, Any]) -> dict[str, Any]:
        measured = dict(objective(plain(values), tune.get_context().get_trial_id()))
        return {SCORE: measured[SCORE], MEASURED: measured}

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"memory": TRIAL_MEMORY}),
        param_space=param_space(spec.space),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=_algorithm(spec, trials),
            num_samples=trials,
            max_concurrent_trials=spec.concurrent,
            time_budget_s=spec.max_seconds,
        ),
        run_config=tune.RunConfig(name="trials", storage_path=str(folder), verbose=0, callbacks=[_narrator(trials)]),
    )
    outcomes = []
    for result in tuner.fit():
        metrics = {name: float(value) for name, value in (result.metrics or {}).get(MEASURED, {}).items()}
        error = None if result.error is None else _first_cause(result.error)
        if error is None and not metrics:
            error = "stopped before it was measured"
        outcomes.append(
            Trial((result.metrics or {}).get("trial_id", result.path), plain(result.config or {}), metrics, error)
        )
    return outcomes


def _algorithm(spec: SearchSpec, trials: int) -> Any:
    """TPE after random draws for a quarter of the trials: with Ray's default of 20, a small search would be random.

    At least as many draws as trials run at once: asked before any result is in, TPE proposes near copies of what runs.
    """
    if spec.algorithm == "random" or not spec.space:
        from ray.tune.search import BasicVariantGenerator

        return BasicVariantGenerator(random_state=spec.seed)
    from ray.tune.search.hyperopt import HyperOptSearch

    initial = max(1, round(trials / 4), min(spec.concurrent, trials))
    return HyperOptSearch(n_initial_points=initial, random_state_seed=spec.seed)


def _narrator(trials: int) -> Any:
    from ray.tune import Callback

    class Narrator(Callback):
        """One line in the log when a trial starts and when it ends."""

        started = ended = 0

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.started += 1
            log.info("trial %s (%d of %d) starts: %s", trial.trial_id, self.started, total, plain(trial.config))

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            score = (trial.last_result or {}).get(SCORE)
            log.info("trial %s done (%d of %d): score %s", trial.trial_id, self.ended, total, score)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            log.warning("trial %s failed (%d of %d)", trial.trial_id, self.ended, total)

    total = trials
    return Narrator()


def _first_cause(error: BaseException) -> str:
    while (deeper := getattr(error, "cause", None) or error.__cause__) is not None:
        error = deeper
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
