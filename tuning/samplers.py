"""What suggests the values of trials: hyperopt's sampler, Optuna's, and designs that are known before the first trial.

Each is a searcher of Ray Tune whose first suggestions are `points`, values that were tried already. Asked and told in
the same order it suggests the same values again, so `tuning.replay` needs no state of it.

- gp: Gaussian process with expected improvement: D. Jones et al., Efficient Global Optimization of Expensive Black-Box
  Functions, 1998; as Optuna has it, on a log scale and with the probability that the budget is kept.
- nsga2: K. Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002.
- sobol: I. Sobol, On the Distribution of Points in a Cube, 1967, scrambled.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher
from ray.tune.search.hyperopt import HyperOptSearch

from configs.schema.search import Algorithm, Domain, SearchSpec
from tuning.pareto import Parts

if TYPE_CHECKING:
    import optuna

Values = Mapping[str, Any]


REPEATS = 50  # times that a sampler may suggest values that were tried already
PartsOf = Callable[[Mapping[str, float]], Parts]  # of a trial's metrics


Make = Callable[[SearchSpec, Sequence[Values], int, PartsOf], Searcher]  # points; trials that learn nothing yet


class HyperOpt(HyperOptSearch):
    """Hyperopt's TPE."""

    def __init__(self, space: Mapping[str, Domain], points: Sequence[Values], **fields: Any) -> None:
        super().__init__(points_to_evaluate=[dict(each) for each in points] or None, **fields)
        self._domains = space

    def _convert_categories_to_indices(self, config: dict[str, Any]) -> None:
        """As Ray's own, which does not find choices that are lists."""
        for key, domain in self._domains.items():
            if domain.choice is not None:
                config[key] = domain.choice.index(config[key])


class Design(Searcher):
    """Suggests points that depend on no trial, one after the other; those that were tried already come first."""

    def __init__(self, points: Sequence[Values], further: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self._left = [*map(dict, points), *(each for each in further if each not in points)]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The space is known."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next point."""
        return self._left.pop(0) if self._left else Searcher.FINISHED  # pyright: ignore[reportReturnType] - what Ray takes for the end

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see above."""


class Optuna(Searcher):
    """A sampler of Optuna's, asked and told."""

    def __init__(
        self,
        space: Mapping[str, Domain],
        points: Sequence[Values],
        sampler: optuna.samplers.BaseSampler,
        values_of: Callable[[Parts], list[float]],
        parts_of: PartsOf,
        number: int = 1,
    ) -> None:
        """`values_of`: what of a trial is maximised, so many numbers; `parts_of`: of its metrics."""
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {key: _distribution(domain) for key, domain in space.items()}
        self._choices = {key: domain.choice for key, domain in space.items() if domain.choice is not None}
        self._values_of, self._parts_of = values_of, parts_of
        self._study = optuna.create_study(directions=[optuna.study.StudyDirection.MAXIMIZE] * number, sampler=sampler)
        self._running: dict[str, optuna.Trial] = {}
        self._seen: dict[str, Parts | None] = {}  # what came of values, by their text; None: nothing yet
        for each in points:
            self._study.enqueue_trial({key: self._told(key, value) for key, value in each.items()})

    def _told(self, key: str, value: Any) -> Any:
        return self._choices[key].index(value) if key in self._choices else value

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The space is known."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Values of the next trial. A sampler that repeats itself is told what it knows, and asked again."""
        for _ in range(REPEATS):
            trial = self._study.ask(self._space)
            if (text := str(trial.params)) not in self._seen:
                break
            self._tell(trial, self._seen[text])
        else:
            trial = self._study.ask(self._space)
        self._seen.setdefault(str(trial.params), None)
        self._running[trial_id] = trial
        return {
            key: self._choices[key][value] if key in self._choices else value for key, value in trial.params.items()
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn from the metrics of a trial; one without numbers has failed."""
        trial = self._running.pop(trial_id)
        parts = self._parts_of(result) if result and not error else None
        self._seen[str(trial.params)] = parts
        self._tell(trial, parts)

    def _tell(self, trial: optuna.Trial, parts: Parts | None) -> None:
        import optuna

        values = self._values_of(parts) if parts else []
        if not parts or not all(map(math.isfinite, [*values, *parts.limits.values()])):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for name, broken in parts.limits.items():
            trial.set_constraint(name, broken)
        self._study.tell(trial, values)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see above."""


class OneThread(Optuna):
    """One whose numbers depend on how many threads add them up."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Values of the next trial."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            return super().suggest(trial_id)


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.choice is not None:
        return CategoricalDistribution(list(range(len(domain.choice))))
    low, high, *step = getattr(domain, domain.kind)
    if domain.kind == "randint":
        return IntDistribution(low, high - 1)
    return FloatDistribution(low, high, log=domain.kind == "loguniform", step=step[0] if step else None)


def _seed(spec: SearchSpec, points: Sequence[Values]) -> int:
    """The same seed would draw again what it drew for the first of `points`."""
    return (spec.seed + len(points)) % 2**32


def _hyperopt(spec: SearchSpec, points: Sequence[Values], blind: int, _: PartsOf) -> Searcher:
    return HyperOpt(spec.space, points, n_initial_points=blind, random_state_seed=_seed(spec, points))


def _gp(spec: SearchSpec, points: Sequence[Values], blind: int, parts_of: PartsOf) -> Searcher:
    import optuna

    sampler = optuna.samplers.GPSampler(seed=_seed(spec, points), n_startup_trials=blind)
    return OneThread(spec.space, points, sampler, lambda parts: [parts.worth], parts_of)


def _nsga2(spec: SearchSpec, points: Sequence[Values], blind: int, parts_of: PartsOf) -> Searcher:
    import optuna

    sampler = optuna.samplers.NSGAIISampler(seed=_seed(spec, points), population_size=max(2, blind))
    return Optuna(spec.space, points, sampler, lambda parts: parts.values, parts_of, number=len(parts_of({}).values))


def _grid(spec: SearchSpec, points: Sequence[Values], _: int, __: PartsOf) -> Searcher:
    rows = itertools.product(*(domain.values for domain in spec.space.values()))
    combinations = [dict(zip(spec.space, each, strict=True)) for each in rows]
    random.Random(spec.seed).shuffle(combinations)  # a part of a grid is no corner of it
    return Design(points, combinations)


def _sobol(spec: SearchSpec, points: Sequence[Values], _: int, __: PartsOf) -> Searcher:
    from scipy.stats import qmc

    number = spec.trials + len(points)
    places = qmc.Sobol(len(spec.space), rng=spec.seed).random_base2(math.ceil(math.log2(number))).tolist()
    shares = [dict(zip(spec.space, place, strict=True)) for place in places]
    return Design(points, [{key: each.at(place[key]) for key, each in spec.space.items()} for place in shares])


ENGINES: Mapping[Algorithm, Make] = {
    "hyperopt": _hyperopt,
    "random": _hyperopt,
    "grid": _grid,
    "sobol": _sobol,
    "gp": _gp,
    "nsga2": _nsga2,
}
