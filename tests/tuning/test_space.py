from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from ray import tune

from configs.schema.search import Domain
from tuning.space import param_space, plain

DRAWS = 200


def draws(**fields: Any) -> list[Any]:
    """Values that Ray Tune itself draws from the domain, as a recipe takes them."""
    domain = param_space({"x": Domain.model_validate(fields)})["x"]
    return [plain({"x": domain.sample()})["x"] for _ in range(DRAWS)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Ray Tune draws from both of these."""
    np.random.seed(0)
    random.seed(0)


def test_choice_draws_each_of_its_values_and_nothing_else():
    values = [1, "two", None, [0, 2], 0.5, True]
    found = draws(choice=values)
    assert all(value in values for value in found)
    assert all(value in found for value in values)


def test_lists_in_a_chosen_section_stay_lists():
    assert plain({"student": {"layers": (0, 5), "hidden": np.int64(8)}}) == {"student": {"layers": [0, 5], "hidden": 8}}


def test_uniform_draws_from_the_whole_range():
    found = draws(uniform=[-1, 3])
    assert -1 <= min(found) < -0.8 and 2.8 < max(found) <= 3


def test_loguniform_draws_as_often_below_the_geometric_middle_as_above():
    found = draws(loguniform=["1e-5", "1e-1"])
    assert min(found) >= 1e-5 and max(found) <= 1e-1
    assert sum(value < 1e-3 for value in found) == pytest.approx(DRAWS / 2, rel=0.25)


def test_quniform_draws_multiples_of_its_step_up_to_both_ends():
    found = draws(quniform=[0.2, 1, 0.2])
    assert all(math.isclose(value / 0.2, round(value / 0.2)) for value in found)
    assert {round(value, 6) for value in found} == {0.2, 0.4, 0.6, 0.8, 1.0}


@pytest.mark.parametrize("ends", [(0.1, 0.75, 0.1), (0.05, 0.7, 0.1)])
def test_quniform_ends_that_ray_tune_would_refuse_are_refused_by_the_recipe(ends: tuple[float, float, float]):
    with pytest.raises(ValueError, match="are not both multiples of the step"):
        Domain(quniform=ends)
    with pytest.raises(ValueError, match="divisible"):
        tune.quniform(*ends)


def test_randint_draws_whole_numbers_without_the_high_end():
    found = draws(randint=[1, 4])
    assert set(found) == {1, 2, 3}
    assert all(type(value) is int for value in found)


def test_keys_stay_as_they_are():
    assert list(param_space({"student.layers": Domain(choice=[1]), "prune.sparsity": Domain(uniform=(0, 1))})) == [
        "student.layers",
        "prune.sparsity",
    ]


def test_plain_turns_tuples_and_numpy_into_what_json_holds():
    given = {
        "layers": (0, (np.int64(2), 5)),
        "rate": np.float64(1e-3),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "name": "kl",
        "nothing": None,
        "list": [np.float32(0.5)],
    }
    found = plain(given)
    assert found == {
        "layers": [0, [2, 5]],
        "rate": 1e-3,
        "count": 3,
        "flag": True,
        "name": "kl",
        "nothing": None,
        "list": [0.5],
    }
    assert [type(found[key]) for key in ("rate", "count", "flag")] == [float, int, bool]
    assert json.loads(json.dumps(found)) == found
