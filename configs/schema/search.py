"""Sections `search` and `budget` of a recipe: what is searched, and inside which limits."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.loader import Spec


class Domain(Spec):
    """The values that a searched field may take, given in exactly one way."""

    choice: list[Any] | None = Field(default=None, min_length=1, description="one of these values")
    uniform: tuple[float, float] | None = Field(default=None, description="any number between two")
    loguniform: tuple[float, float] | None = Field(
        default=None, description="any number between two, even on a log scale"
    )
    quniform: tuple[float, float, float] | None = Field(default=None, description="low, high, step")
    randint: tuple[int, int] | None = Field(default=None, description="a whole number, low to high, high excluded")

    @model_validator(mode="after")
    def one_kind_and_ordered(self) -> Self:
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}, got {kinds or 'none'}")
        kind = self.kind
        if kind != "choice":
            low, high = getattr(self, kind)[:2]
            if not low < high:
                raise ValueError(f"{kind}: [{low}, {high}] is empty; the low end comes first")
            if kind == "loguniform" and low <= 0:
                raise ValueError(f"loguniform: the low end {low} must be above 0")
            if kind == "quniform" and not 0 < getattr(self, kind)[2] <= high - low:
                raise ValueError(f"quniform: the step {getattr(self, kind)[2]} does not fit between {low} and {high}")
            if kind == "quniform" and not all(_is_multiple(end, getattr(self, kind)[2]) for end in (low, high)):
                raise ValueError(
                    f"quniform: {low} and {high} are not both multiples of the step {getattr(self, kind)[2]}"
                )
        return self

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> list[Any]:
        """All values in order. Raises `ValueError` where they are not counted."""
        if self.choice is not None:
            return self.choice
        if self.kind not in ("randint", "quniform"):
            raise ValueError(f"{self.kind}: has no values to count; give choice, randint or quniform")
        low, high, *step = getattr(self, self.kind)
        if self.kind == "randint":
            return list(range(low, high))
        return [number * step[0] for number in range(round(low / step[0]), round(high / step[0]) + 1)]

    def at(self, share: float) -> Any:
        """The value below which such a share of the domain lies, from 0 to under 1."""
        if self.kind not in ("uniform", "loguniform"):
            values = self.values
            return values[min(len(values) - 1, int(share * len(values)))]
        low, high = getattr(self, self.kind)
        return low * (high / low) ** share if self.kind == "loguniform" else low + (high - low) * share

    def probes(self) -> list[Any]:
        """Values that show whether the whole domain is allowed: every choice, or both ends and a value between.

        The value between is no whole number, unless the domain has whole numbers alone.
        """
        if self.choice is not None:
            return self.choice
        low, high, *step = getattr(self, self.kind)
        if self.kind == "randint":
            return [low, high - 1]
        return [low, low + (step[0] if step else min(0.5, (high - low) / 2)), high]


def _is_multiple(value: float, step: float) -> bool:
    """As Ray Tune decides it, which refuses a range with other ends when the search starts."""
    return math.isclose(value / step, round(value / step))


class Weights(Spec):
    """How much each figure counts: a candidate is worth metric^a / (p95_ms^b x megabytes^c)."""

    metric: float = Field(default=0.0, ge=0, description="power of the metric")
    p95_ms: float = Field(default=0.0, ge=0, description="power of the p95 latency, as a divisor")
    megabytes: float = Field(default=0.0, ge=0, description="power of the size, as a divisor")

    @model_validator(mode="after")
    def something_counts(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("no weight is above 0; give one of metric, p95_ms, megabytes")
        return self


Algorithm = Literal["hyperopt", "random", "grid", "sobol", "gp", "nsga2"]
LEARNING: frozenset[Algorithm] = frozenset({"hyperopt", "gp", "nsga2"})  # from what trials came to
MOST_COMBINATIONS = 100_000  # of a grid
Named = Literal["cheapest", "smallest", "fastest", "accurate"]
Objective = Named | Weights
NAMED: dict[Named, Weights] = {
    "cheapest": Weights(p95_ms=1, megabytes=1),
    "smallest": Weights(megabytes=1),
    "fastest": Weights(p95_ms=1),
    "accurate": Weights(metric=1),
}


class SearchSpec(Spec):
    """Which trials are run, and which trial inside the budget is the best."""

    objective: Objective = Field(
        default="cheapest",
        description="the best inside the budget: cheapest = least p95 x megabytes, smallest, fastest, accurate = "
        "highest metric; or weights, as powers: most metric^a / (p95_ms^b x megabytes^c)",
    )

    algorithm: Algorithm = Field(
        default="hyperopt",
        description="hyperopt = TPE; gp = Gaussian process with expected improvement; nsga2 = several objectives, for "
        "a front; random and sobol draw blindly, sobol evenly; grid = every combination",
    )
    trials: int = Field(
        default=8, ge=1, description="trials in all; of a grid all its combinations, which must not be more"
    )
    concurrent: int = Field(
        default=1,
        ge=1,
        description="trials side by side, which share engine.cpus_per_worker; trial n waits for trial n - concurrent",
    )
    scheduler: Literal["none"] = Field(
        default="none", description="early stopping of trials; none is the only kind so far"
    )
    max_seconds: float | None = Field(
        default=None, gt=0, description="seconds after which running trials are stopped and no new one starts"
    )
    no_gain: int | None = Field(
        default=None, ge=1, description="no new trial starts once so many in a row were no better than one before them"
    )
    good_enough: float | None = Field(
        default=None,
        description="no new trial starts once one is inside the budget with at least this metric",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="same seed, same suggestions")
    space: dict[str, Domain] = Field(
        default_factory=dict,
        description="domains by dotted key, steps by their name; null removes an inherited domain, {} all",
    )

    @property
    def rules(self) -> dict[str, Any]:
        """What ends a search before its trials are over, but for time."""
        rules = {"no_gain": self.no_gain, "good_enough": self.good_enough}
        return {name: value for name, value in rules.items() if value is not None}

    @model_validator(mode="after")
    def grid_is_counted(self) -> Self:
        if self.algorithm != "grid":
            return self
        combinations = 1
        for key, domain in self.space.items():
            try:
                combinations *= len(domain.values)
            except ValueError as error:
                raise ValueError(f"space.{key}: {error}; search.algorithm=grid tries every value") from None
        if combinations > MOST_COMBINATIONS:
            raise ValueError(f"algorithm: grid: {combinations:,} combinations; at most {MOST_COMBINATIONS:,} are tried")
        if "trials" in self.model_fields_set and combinations > self.trials:
            raise ValueError(
                f"trials: {self.trials}: the grid has {combinations} combinations; leave trials out, or choose sobol"
            )
        object.__setattr__(self, "trials", combinations)
        return self


class BudgetSpec(Spec):
    """Hard limits: a candidate outside any of them cannot win."""

    metric: str | None = Field(
        default=None,
        description="metric of the task that retention is a share of, and that decides between candidates of the same "
        "cost; classify: accuracy, macro_f1; generate: bleu, rouge_l, chrf, exact_match, slot_accuracy (1 less the "
        "slot error rate); none = the task's own, which stands first",
    )
    min_retention: float = Field(
        default=0.99,
        ge=0,
        le=2,
        description="least share of the teacher's metric: on validation rows for the choice, on test rows for deploy",
    )
    margin: float = Field(
        default=1.0,
        ge=0,
        le=5,
        description="standard errors by which a candidate's retention on validation rows must be above min_retention; "
        "with 0 about half of the candidates at the limit miss it on other rows",
    )
    max_p95_ms: float | None = Field(
        default=None,
        gt=0,
        description="p95 latency in milliseconds of the quietest of five blocks of calls: batch 1, 32 tokens, one "
        "thread, tokenizer included; generate: of an answer of 32 tokens to a prompt of 32",
    )
    max_ms_per_token: float | None = Field(
        default=None,
        gt=0,
        description="generate: p50 latency of such an answer in milliseconds, divided by its 32 tokens",
    )
    max_megabytes: float | None = Field(default=None, gt=0, description="size of the bundle folder in MB (10^6 bytes)")
    max_held: float | None = Field(
        default=None, ge=0, le=1, description="generate: share of texts that are held back, with checks.enabled"
    )
    max_slot_errors: float | None = Field(
        default=None, ge=0, description="generate: slot error rate of the texts that go out, of rows with attributes"
    )
    gate: Literal["point", "interval"] = Field(
        default="point",
        description="figures on test rows that deploy goes by: point = the values; interval = their 95 % intervals: "
        "the low end of retention holds min_retention, and a model is worse if its interval lies below the champion's",
    )

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that candidates and contenders are judged by: all but `gate`, which is `deploy`'s."""
        return self.model_dump(exclude={"gate"})
