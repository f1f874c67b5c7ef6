import re
from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.search import BudgetSpec, Domain, SearchSpec, Weights


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        Domain.model_validate(fields)
    error = refused.value.errors()[0]
    return ".".join(map(str, error["loc"])) + ": " + error["msg"]


@pytest.mark.parametrize(
    ("fields", "kind", "probes"),
    [
        ({"choice": [3, 1, [0, 2]]}, "choice", [3, 1, [0, 2]]),
        ({"choice": ["one"]}, "choice", ["one"]),
        ({"uniform": [0, 1]}, "uniform", [0, 0.5, 1]),
        ({"uniform": [2, 6]}, "uniform", [2, 2.5, 6]),
        ({"uniform": [-2.5, "5e-1"]}, "uniform", [-2.5, -2, 0.5]),
        ({"loguniform": ["1e-5", 3e-5]}, "loguniform", [1e-5, pytest.approx(2e-5), 3e-5]),
        ({"quniform": [0, 1, 0.25]}, "quniform", [0, 0.25, 1]),
        ({"quniform": [0, 1, 1]}, "quniform", [0, 1, 1]),
        ({"randint": [1, 7]}, "randint", [1, 6]),
        ({"randint": [1, 2]}, "randint", [1, 1]),
    ],
)
def test_a_domain_knows_its_kind_and_the_values_that_stand_for_all(
    fields: dict[str, Any], kind: str, probes: list[Any]
):
    domain = Domain.model_validate(fields)
    assert domain.kind == kind
    assert domain.probes() == probes


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "give exactly one of choice, uniform, loguniform, quniform, randint, got none"),
        ({"choice": [1], "uniform": [0, 1]}, "got ['choice', 'uniform']"),
        ({"choice": []}, "choice: List should have at least 1 item"),
        ({"uniform": [1, 1]}, "uniform: [1.0, 1.0] is empty; the low end comes first"),
        ({"uniform": [2, 1]}, "uniform: [2.0, 1.0] is empty"),
        ({"uniform": [1]}, "uniform.1: Field required"),
        ({"uniform": [1, 2, 3]}, "at most 2 items"),
        ({"uniform": [0, float("inf")]}, "uniform.1: Input should be a finite number"),
        ({"uniform": [0, True]}, "uniform: a number is expected"),
        ({"loguniform": [0, 1]}, "loguniform: the low end 0.0 must be above 0"),
        ({"loguniform": [-1, 1]}, "the low end -1.0 must be above 0"),
        ({"quniform": [0, 1, 0]}, "quniform: the step 0.0 does not fit between 0.0 and 1.0"),
        ({"quniform": [0, 1, 2]}, "the step 2.0 does not fit"),
        ({"quniform": [0, 1]}, "quniform.2: Field required"),
        ({"randint": [3, 3]}, "randint: [3, 3] is empty"),
        ({"randint": [0.5, 3]}, "randint.0: Input should be a valid integer"),
        ({"normal": [0, 1]}, "normal: Extra inputs are not permitted"),
    ],
)
def test_a_domain_of_no_values_or_of_two_kinds_is_refused(fields: dict[str, Any], said: str):
    assert said in refusal(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"trials": 0},
        {"concurrent": 0},
        {"max_seconds": 0},
        {"seed": -1},
        {"algorithm": "bayes"},
        {"space": {"a.b": [1, 2]}},
        {"trails": 3},
    ],
)
def test_a_search_that_cannot_run_is_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        SearchSpec.model_validate(fields)


GRID = {"a": {"choice": ["x", "y", [1]]}, "b": {"randint": [2, 5]}, "c": {"quniform": [0.1, 0.3, 0.1]}}


def test_a_grid_has_as_many_trials_as_combinations_and_says_the_same_once_it_was_written_down():
    spec = SearchSpec.model_validate({"algorithm": "grid", "space": GRID})
    assert spec.trials == 27
    assert SearchSpec.model_validate(spec.model_dump()) == spec
    assert SearchSpec.model_validate({"algorithm": "grid", "space": GRID, "trials": 30}).trials == 27


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trials": 8}, "trials: 8: the grid has 27 combinations; leave trials out, or choose sobol"),
        ({"space": {"a.b": {"uniform": [0, 1]}}}, "space.a.b: uniform: has no values to count"),
        ({"space": {"a": {"randint": [0, 1000]}, "b": {"randint": [0, 1000]}}}, "1,000,000 combinations; at most"),
    ],
)
def test_a_grid_that_is_not_counted_or_too_large_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=re.escape(said)):
        SearchSpec.model_validate({"algorithm": "grid", "space": GRID, **fields})


def test_shares_of_a_domain_are_its_values_in_order():
    for fields, shares in (
        ({"choice": ["a", "b"]}, {0.0: "a", 0.49: "a", 0.5: "b", 0.999: "b"}),
        ({"randint": [2, 5]}, {0.0: 2, 0.34: 3, 0.99: 4}),
        ({"quniform": [0, 1, 0.5]}, {0.0: 0.0, 0.5: 0.5, 0.9: 1.0}),
        ({"uniform": [2, 4]}, {0.0: 2.0, 0.5: 3.0}),
        ({"loguniform": [1e-4, 1]}, {0.0: 1e-4, 0.5: pytest.approx(1e-2)}),
    ):
        assert {share: Domain.model_validate(fields).at(share) for share in shares} == shares


@pytest.mark.parametrize(
    "fields", [{"min_retention": -0.1}, {"max_p95_ms": 0}, {"max_megabytes": -1}, {"max_p95_ms": True}]
)
def test_a_budget_that_nothing_fits_is_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError):
        BudgetSpec.model_validate(fields)


def test_a_budget_without_limits_asks_for_accuracy_only():
    budget = BudgetSpec.model_validate({})
    assert (budget.min_retention, budget.max_p95_ms, budget.max_megabytes) == (0.99, None, None)


@pytest.mark.parametrize("name", Weights.model_fields)
def test_a_figure_counts_by_a_power_of_0_or_more(name: str):
    others = {other: 1.0 for other in Weights.model_fields if other != name}
    assert Weights(**others, **{name: 0.0})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Weights(**others, **{name: -0.5})
