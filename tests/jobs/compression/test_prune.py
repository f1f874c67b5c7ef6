from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jobs.compression.prune import prune, sparsity
from jobs.compression.spec import PruneSpec
from tests.tiny_models import batch, encoder_classifier


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that pruning ranks: all of Linear layers but the head's."""
    return {
        name: layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name != "head"
    }


def spec(share: float) -> PruneSpec:
    return PruneSpec(step="prune", sparsity=share)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_exactly_the_share_of_all_weights_becomes_zero(kind: str, share: float):
    weights = linear_weights(prune(encoder_classifier(kind), spec(share))).values()
    total = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == round(share * total)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_no_kept_weight_of_any_layer_is_smaller_than_a_pruned_one_of_any_other(share: float):
    model = encoder_classifier()
    with torch.no_grad():
        linear_weights(model)["encoder.encoder.layer.1.output.dense"].mul_(10)  # so that layers differ
    before, after = linear_weights(model), linear_weights(prune(model, spec(share)))
    kept = torch.cat([before[name][weight != 0].abs() for name, weight in after.items()])
    pruned = torch.cat([before[name][weight == 0].abs() for name, weight in after.items()])
    assert kept.min() >= pruned.max()
    shares = [float((weight == 0).float().mean()) for weight in after.values()]
    assert max(shares) - min(shares) > 0.05


def test_kept_weights_and_everything_that_is_not_linear_stay_as_they_were():
    model = encoder_classifier()
    pruned = prune(model, spec(0.5))
    before, after = model.state_dict(), pruned.state_dict()
    assert before.keys() == after.keys()
    linear = {f"{name}.weight" for name in linear_weights(model)}
    for name, weight in after.items():
        if name in linear:
            assert torch.equal(weight[weight != 0], before[name][weight != 0])
        else:
            assert torch.equal(weight, before[name])
    assert torch.equal(pruned.head.weight, model.head.weight)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def test_the_given_model_stays_as_it_was():
    model = encoder_classifier()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prune(model, spec(0.5))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_no_sparsity_is_the_same_model():
    model, given = encoder_classifier(), batch(3, 9)
    pruned = prune(model, spec(0))
    assert sparsity(pruned) == 0
    with torch.inference_mode():
        assert torch.equal(pruned(**given), model(**given))


def test_a_pruned_model_is_ordinary_and_can_be_pruned_further():
    pruned = prune(encoder_classifier(), spec(0.5))
    assert not [name for name, _ in pruned.named_buffers() if name.endswith("_mask")]
    assert not [layer for layer in pruned.modules() if layer._forward_pre_hooks]
    further = linear_weights(prune(pruned, spec(0.8)))
    for name, weight in linear_weights(pruned).items():
        assert not further[name][weight == 0].any()


def test_sparsity_is_the_share_of_zeros():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1), nn.LayerNorm(1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
        model[0].weight[0, :2] = 0  # pyright: ignore[reportIndexIssue]
    assert sparsity(model) == 2 / 10
    assert sparsity(nn.LayerNorm(3)) == 0
