"""Masks in plain training; under the engine, in several layouts: test_loop.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.loader import UsageError
from configs.schema.compression import DistillStep, PruneSpec
from jobs.compression.steps.prune import zeroed
from jobs.models.sparsity import multiplied, sparsity_facts
from jobs.training.masks import CHOICES, Masks, cubic, release
from jobs.training.quantize_aware import calibrate, learn_rounded
from tests.tiny.models import batch, encoder_classifier

STEPS = 40


def pruned(**fields: Any) -> nn.Module:
    return zeroed(encoder_classifier(layers=1), PruneSpec(step="prune", **fields), 0)


def spec(**fields: Any) -> DistillStep:
    return DistillStep(step="distill", **fields)


def learn(model: nn.Module, held: Masks | None, steps: int = STEPS) -> list[float]:
    """With weight decay and momentum, towards nothing in particular; the share of zeros after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    shares = []
    for step in range(steps):
        optimizer.zero_grad()
        model(**batch(4, 9, seed=step)).square().sum().backward()
        optimizer.step()
        if held:
            held.after_step()
        shares.append(sparsity_facts(model)["sparsity"])
    return shares


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in multiplied(model).items()}


@pytest.mark.parametrize("fields", [{"sparsity": 0.5}, {"pattern": "2:4"}], ids=str)
def test_zeros_stay_zero_and_the_other_weights_learn(fields: dict[str, Any]):
    model = pruned(**fields)
    before = weights(model)
    held = Masks(model, spec(), STEPS)
    learn(model, held)
    release(model)
    for name, after in weights(model).items():
        assert torch.equal(after == 0, before[name] == 0), name
        assert (after != before[name]).float().mean() > 0.4, name


def test_without_masks_the_zeros_are_gone_after_one_step():
    model = pruned(sparsity=0.5)
    assert learn(model, None, steps=1)[0] < 0.01


def test_a_released_model_is_an_ordinary_one():
    model = pruned(sparsity=0.5)
    before = copy.deepcopy(model.state_dict())
    Masks(model, spec(), STEPS)
    learn_rounded(model)
    assert model.state_dict().keys() != before.keys()
    release(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_zeros_stay_zero_under_rounding():
    model = pruned(sparsity=0.5)
    before = weights(model)
    Masks(model, spec(), STEPS)
    learn_rounded(model)
    calibrate(model, [batch(4, 9)])
    learn(model, None)
    release(model)
    assert all(torch.equal(after == 0, before[name] == 0) for name, after in weights(model).items())


def test_the_head_and_embeddings_are_not_masked():
    model = pruned(sparsity=0.5)
    with torch.no_grad():
        model.get_parameter("head.weight")[0] = 0
    Masks(model, spec(), STEPS)
    learn(model, None, steps=2)
    assert model.get_parameter("head.weight").all()


@pytest.mark.parametrize(
    ("done", "share"),
    [(0.0, 0.2), (0.25, 0.9 - 0.7 * 0.421875), (0.5, 0.9 - 0.7 / 8), (1.0, 0.9)],
)
def test_the_curve_is_cubic(done: float, share: float):
    assert cubic(0.2, 0.9, done) == pytest.approx(share)


def test_sparsity_rises_along_the_curve_to_its_target_and_stays_there():
    model = pruned(sparsity=0.2)
    held = Masks(model, spec(sparsity=0.9, rising=0.5), STEPS)
    shares = learn(model, held)
    risen = STEPS // 2
    assert shares[:risen] == pytest.approx([cubic(0.2, 0.9, (step + 1) / risen) for step in range(risen)], abs=1e-3)
    assert shares[risen:] == pytest.approx([0.9] * (STEPS - risen), abs=1e-4)


def test_the_first_to_go_are_the_smallest_of_all_layers_and_none_returns():
    model = pruned(sparsity=0.2)
    held = Masks(model, spec(sparsity=0.9, rising=0.99), STEPS)
    gone = {name: weight == 0 for name, weight in weights(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(**batch(4, 9, seed=step)).square().mean().backward()
        optimizer.step()
        before = weights(model)
        held.after_step()
        after = weights(model)
        assert all((gone[name] <= (weight == 0)).all() for name, weight in after.items())
        gone = {name: weight == 0 for name, weight in after.items()}
        kept = torch.cat([before[name][weight != 0].abs() for name, weight in after.items()])
        assert kept.min() >= max(before[name][gone[name]].abs().max() for name in gone)


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_a_schedule_of_any_length_ends_at_its_target(steps: int):
    model = pruned(sparsity=0.1)
    held = Masks(model, spec(sparsity=0.6), steps)
    chosen = []
    for _ in range(steps):
        assert held.settled == (held.done >= max(1, round(steps / 2)))
        before = sparsity_facts(model)["sparsity"]
        held.after_step()
        chosen.append(sparsity_facts(model)["sparsity"] != before)
    assert held.settled
    assert sparsity_facts(model)["sparsity"] == pytest.approx(0.6, abs=1e-4)
    assert sum(chosen) <= CHOICES


def test_after_a_restart_the_schedule_goes_on_where_it_was():
    """The masks come back with the weights, from the checkpoint; the number of steps from the epochs that are done."""
    whole, part = (pruned(sparsity=0.2) for _ in range(2))
    expected = learn(whole, Masks(whole, spec(sparsity=0.8), STEPS), STEPS)
    learn(part, Masks(part, spec(sparsity=0.8), STEPS), 10)
    resumed = pruned(sparsity=0.2)
    held = Masks(resumed, spec(sparsity=0.8), STEPS)
    resumed.load_state_dict(part.state_dict())
    held.done = 10
    assert learn(resumed, held, STEPS - 10) == pytest.approx(expected[10:])


def test_a_sparsity_below_the_present_one_is_refused():
    with pytest.raises(UsageError, match=r"^compression\.distill\.sparsity: 0\.3: 0\.500 of the weights are zero bef"):
        Masks(pruned(sparsity=0.5), spec(sparsity=0.3), STEPS)
