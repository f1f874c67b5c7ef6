"""However its work is split and computed, the train loop learns the same."""

from __future__ import annotations

import math

import pytest
import torch

from tests.jobs.training.loops import EPOCHS, Facts
from tests.jobs.training.modes import FOUR_WORKERS, ON_A_GPU, ONE_WORKER, TWO_WORKERS, TWO_WORKERS_MORE


def reference_of(name: str) -> str:
    name, *_ = name.split(", gpu")
    return name if name in ONE_WORKER else name.split(",")[0]


@pytest.mark.parametrize("mode", ["accumulated", "activations computed twice", "offloaded"])
def test_how_a_step_is_computed_changes_nothing(one: dict[str, Facts], mode: str):
    assert one[f"encoder, {mode}"]["curve"] == pytest.approx(one["encoder"]["curve"], rel=1e-4)


def test_activations_computed_twice_change_nothing_under_adapters(one: dict[str, Facts]):
    expected = one["decoder adapted"]["curve"]
    assert one["decoder adapted, activations computed twice"]["curve"] == pytest.approx(expected, rel=1e-4)
    assert one["decoder adapted, bf16 weights"]["curve"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_learn_what_one_does(one: dict[str, Facts], two: dict[str, Facts], mode: str):
    assert_alike(two[mode], one[reference_of(mode)])


@pytest.mark.parallel
@pytest.mark.parametrize("mode", TWO_WORKERS_MORE)
def test_two_workers_learn_what_one_does_in_more_modes(one: dict[str, Facts], two_more: dict[str, Facts], mode: str):
    assert_alike(two_more[mode], one[reference_of(mode)])


@pytest.mark.parallel
@pytest.mark.parametrize("mode", FOUR_WORKERS)
def test_four_workers_learn_what_one_does(one: dict[str, Facts], four: dict[str, Facts], mode: str):
    assert_alike(four[mode], one[reference_of(mode)])


def assert_alike(seen: Facts, reference: Facts) -> None:
    """Losses by epoch, the choice of the best, and of the models the heads and the running statistics of norms.

    Adam moves a weight by a whole step either way, as rounding decides, where its gradient is nearly 0; so models are
    compared as a whole. Norms over each worker's own rows would be 3 to 13 % away.
    """
    assert seen["curve"] == pytest.approx(reference["curve"], rel=1e-4)
    assert seen["best"]["best_epoch"] == reference["best"]["best_epoch"]
    (metric,) = seen["best"].keys() & {"validation_accuracy", "validation_log_likelihood"}
    assert seen["best"][metric] == pytest.approx(reference["best"][metric], rel=1e-4)
    for name in ("heads", "statistics"):
        for each, (expected, *_) in zip(seen[name], reference[name], strict=True):
            assert all(distance(own, expected) < 1e-2 for own in each)


def distance(seen: list[float], reference: list[float]) -> float:
    """How far two vectors are from one another, as a share of the length of the second."""
    return math.dist(seen, reference) / (math.hypot(*reference) or 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("mode", ON_A_GPU)
def test_a_gpu_learns_what_a_cpu_does(one: dict[str, Facts], on_a_gpu: dict[str, Facts], mode: str):
    seen, (_, tolerance) = on_a_gpu[mode], ON_A_GPU[mode]
    assert not seen["best"].get("overflows")
    if tolerance is None:
        assert seen["curve"][-1] < seen["curve"][0]
    else:
        assert seen["curve"] == pytest.approx(one[reference_of(mode)]["curve"], rel=tolerance)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_hold_the_same_weights_after_every_epoch(two: dict[str, Facts], mode: str):
    assert len(two[mode]["heads"]) == EPOCHS
    assert all(first == second for first, second in two[mode]["heads"])


@pytest.mark.parametrize("mode", ["bf16", "bf16 weights", "fp16 weights"])
def test_16_bits_learn_nearly_the_same(one: dict[str, Facts], mode: str):
    assert one[f"encoder, {mode}"]["curve"] != one["encoder"]["curve"]
    assert one[f"encoder, {mode}"]["curve"] == pytest.approx(one["encoder"]["curve"], rel=0.05)
