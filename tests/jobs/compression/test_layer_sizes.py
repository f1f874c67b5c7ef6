from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from configs.loader import UsageError
from jobs.compression.importance import Importance
from jobs.compression.layer_sizes import cheapest, check, lost_by, part_of, under, uniform
from jobs.compression.layer_times import LayerTimes
from jobs.models.layers import LayerSize

SIZES = [LayerSize(3, 4, 24), LayerSize(2, 4, 16)]
MATTERS = Importance(
    heads=[torch.tensor([1.0, 5.0, 2.0]), torch.tensor([8.0, 4.0])],
    units=[torch.linspace(0.1, 1.0, 24), torch.linspace(0.0, 2.0, 16)],
    dims=torch.ones(8),
)
TIMES = LayerTimes(rest=1.0, heads={1: 2.0, 2: 3.0, 3: 4.0}, feed_forward={8: 1.0, 24: 3.0})


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_loses_as_little_as_the_best_of_all_combinations(seed: int):
    chance = np.random.default_rng(seed)
    ms = [chance.integers(0, 12, 4).astype(float) for _ in range(4)]
    lost = [chance.random(4) for _ in range(4)]
    limit = float(chance.integers(3, 40))

    def total(of: list[np.ndarray], chosen: tuple[int, ...] | list[int]) -> float:
        return sum(float(each[option]) for each, option in zip(of, chosen, strict=True))

    able = [chosen for chosen in itertools.product(range(4), repeat=4) if total(ms, chosen) <= limit]
    found = cheapest(lost, ms, limit, buckets=int(limit))
    if not able:
        assert found is None
        return
    assert found is not None
    assert total(ms, found) <= limit
    assert total(lost, found) == pytest.approx(min(total(lost, chosen) for chosen in able))


def test_what_is_chosen_fits_and_more_time_loses_less():
    before = 1.0
    for limit in (5.0, 6.5, 9.5, 11.5, 13.1):
        kept = under(limit, SIZES, MATTERS, TIMES)
        assert kept is not None
        assert TIMES.model(list(kept.values())) <= limit
        after = lost_by(kept, MATTERS)
        assert after < before
        before = after
    assert before == pytest.approx(0.0, abs=1e-6)  # 13 ms are the whole model


def test_a_whole_layer_is_left_out_where_its_time_is_worth_more_elsewhere():
    kept = under(6.0, SIZES, MATTERS, TIMES)
    assert kept == {1: LayerSize(2, 4, 16)}  # 12 of heads and 16 of units in 5 ms


def test_no_model_is_faster_than_one_smallest_layer():
    assert under(4.9, SIZES, MATTERS, TIMES) is None
    assert under(0.5, SIZES, MATTERS, TIMES) is None


def test_each_layer_keeps_the_number_or_share_asked_for():
    assert uniform({"heads": 1, "feed_forward": 0.25}, SIZES, MATTERS) == {0: LayerSize(1, 4, 6), 1: LayerSize(1, 4, 4)}
    assert uniform({"heads": 3}, SIZES, MATTERS) == {0: SIZES[0], 1: SIZES[1]}  # a layer of two keeps both


def test_the_layers_that_stay_are_those_that_matter_most():
    assert uniform({"layers": 1}, SIZES, MATTERS) == {1: SIZES[1]}
    assert uniform({"layers": 0.5, "heads": 1}, SIZES, MATTERS) == {1: LayerSize(1, 4, 16)}


def test_a_share_is_at_least_one():
    assert [part_of(asked, 12) for asked in (0.01, 0.5, 1.0, 1, 40)] == [1, 6, 12, 1, 12]


def test_more_than_there_is_is_refused():
    with pytest.raises(UsageError, match=r"compression.small.heads: 4: the model has 3; give at most that"):
        check({"feed_forward": 0.5, "heads": 4}, {"feed_forward": 24, "heads": 3}, "small")


def test_what_is_lost_is_the_share_of_what_does_not_stay():
    kept = {0: LayerSize(2, 4, 24)}  # loses the head of 1 and the layer of 12 + 16
    assert lost_by(kept, MATTERS) == pytest.approx((1 + 12 + 16) / (8 + 13.2 + 12 + 16))


def test_of_no_importance_nothing_is_lost():
    nothing = Importance(
        heads=[torch.zeros_like(each) for each in MATTERS.heads],
        units=[torch.zeros_like(each) for each in MATTERS.units],
        dims=torch.ones(8),
    )
    assert lost_by({}, nothing) == lost_by({0: SIZES[0]}, nothing) == 0
    assert lost_by({}, MATTERS) == pytest.approx(1)
    assert lost_by(dict(enumerate(SIZES)), MATTERS) == pytest.approx(0, abs=1e-6)
