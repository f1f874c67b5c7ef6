from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from configs.schema.compression import PruneSpec
from configs.schema.models import StudentSpec
from jobs.compression.steps.prune import largest_of_groups, prune, zeroed
from jobs.models.decoder import Decoder, load, save
from jobs.models.encoder import EncoderClassifier
from jobs.models.sparsity import multiplied, sparsity_facts
from jobs.models.student import encoder_student
from tests.tiny.models import batch, decoder, encoder_classifier
from tests.tiny.workplace import Alone


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that pruning ranks: all of Linear layers but the head's."""
    return {
        name: layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name != "head"
    }


def spec(share: float, **fields: Any) -> PruneSpec:
    return PruneSpec(step="prune", sparsity=share, **fields)


def pattern(text: str, **fields: Any) -> PruneSpec:
    return PruneSpec(step="prune", pattern=text, sparsity=None, **fields)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_exactly_the_share_of_all_weights_becomes_zero(kind: str, share: float):
    weights = linear_weights(zeroed(encoder_classifier(kind), spec(share), 0)).values()
    total = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == round(share * total)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_no_kept_weight_of_any_layer_is_smaller_than_a_pruned_one_of_any_other(share: float):
    model = encoder_classifier()
    with torch.no_grad():
        linear_weights(model)["encoder.encoder.layer.1.output.dense"].mul_(10)  # so that layers differ
    before, after = linear_weights(model), linear_weights(zeroed(model, spec(share), 0))
    kept = torch.cat([before[name][weight != 0].abs() for name, weight in after.items()])
    pruned = torch.cat([before[name][weight == 0].abs() for name, weight in after.items()])
    assert kept.min() >= pruned.max()
    shares = [float((weight == 0).float().mean()) for weight in after.values()]
    assert max(shares) - min(shares) > 0.05


def test_kept_weights_and_everything_that_is_not_linear_stay_as_they_were():
    model = encoder_classifier()
    pruned = zeroed(model, spec(0.5), 0)
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
    zeroed(model, spec(0.5), 0)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_no_sparsity_is_the_same_model():
    model, given = encoder_classifier(), batch(3, 9)
    pruned = zeroed(model, spec(0), 0)
    assert sparsity_facts(pruned)["sparsity"] == 0
    with torch.inference_mode():
        assert torch.equal(pruned(**given), model(**given))


def test_a_pruned_model_is_ordinary_and_can_be_pruned_further():
    pruned = zeroed(encoder_classifier(), spec(0.5), 0)
    assert not [name for name, _ in pruned.named_buffers() if name.endswith("_mask")]
    assert not [layer for layer in pruned.modules() if layer._forward_pre_hooks]
    further = linear_weights(zeroed(pruned, spec(0.8), 0))
    for name, weight in linear_weights(pruned).items():
        assert not further[name][weight == 0].any()


def test_by_layer_the_smallest_weights_of_each_become_zero():
    model = encoder_classifier()
    after = linear_weights(zeroed(model, spec(0.4, scope="layer"), 0))
    for name, before in linear_weights(model).items():
        count = round(0.4 * before.numel())
        limit = before.abs().flatten().sort().values[count - 1]
        assert torch.equal(after[name] == 0, before.abs() <= limit), name


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_at_random_the_share_is_exact_and_size_does_not_matter(scope: str):
    model = encoder_classifier()
    before, after = (linear_weights(each) for each in (model, zeroed(model, spec(0.5, by="random", scope=scope), 0)))
    gone = torch.cat([weight.flatten() == 0 for weight in after.values()])
    size = torch.cat([weight.abs().flatten() for weight in before.values()])
    assert int(gone.sum()) == round(0.5 * len(gone))
    assert float(size[gone].mean() / size[~gone].mean()) == pytest.approx(1, abs=0.05)


def test_chance_is_the_seeds_alone():
    model = encoder_classifier()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (zeroed(model, spec(0.5, by="random"), seed).state_dict() for seed in (3, 3, 4))
    name = "encoder.encoder.layer.0.output.dense.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert torch.equal(torch.get_rng_state(), state)


def test_pruned_at_random_twice_it_is_as_sparse_as_the_larger_share_says():
    once = zeroed(encoder_classifier(), spec(0.5, by="random"), 0)
    assert sparsity_facts(zeroed(once, spec(0.6, by="random"), 1))["sparsity"] == pytest.approx(0.6, abs=1e-4)


def kept_of_group(weights: list[float], most: int) -> list[float]:
    """The plain form: of the inputs of one group, those that are among the `most` largest."""
    largest = sorted(weights, key=abs, reverse=True)[:most]
    return [weight if weight in largest else 0.0 for weight in weights]


@pytest.mark.parametrize(("most", "size"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 7)])
def test_of_each_group_of_inputs_the_largest_are_kept(most: int, size: int):
    """7 does not divide the 32 or 64 inputs: the last group is smaller."""
    model = encoder_classifier(layers=1)
    after = linear_weights(zeroed(model, pattern(f"{most}:{size}"), 0))
    for name, before in linear_weights(model).items():
        for row, kept in zip(before.tolist(), after[name].tolist(), strict=True):
            groups = [row[start : start + size] for start in range(0, len(row), size)]
            assert kept == [weight for group in groups for weight in kept_of_group(group, most)]


def test_a_convolution_has_groups_of_input_channels_at_each_place_of_its_kernel():
    weight_OIK = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
    mask_OIK = largest_of_groups(weight_OIK.abs(), 2, 4)
    assert torch.equal(mask_OIK.unflatten(1, (2, 4)).sum(2), torch.full((3, 2, 5), 2.0))
    smallest_kept = (weight_OIK.abs() + 9 * (1 - mask_OIK)).unflatten(1, (2, 4)).amin(2)
    assert (smallest_kept > (weight_OIK.abs() * (1 - mask_OIK)).unflatten(1, (2, 4)).amax(2)).all()


def test_a_convolutional_student_is_pruned_in_its_convolutions():
    student = encoder_student(encoder_classifier(), StudentSpec(kind="conv", layers=2, hidden=16))
    assert sparsity_facts(zeroed(student, spec(0.5), 0))["sparsity"] == 0.5
    assert set(sparsity_facts(zeroed(student, pattern("1:4"), 0))["layers"].values()) == {0.75}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_is_pruned_in_all_layers_but_its_table_of_tokens_and_reloads(kind: str, tmp_path: Path):
    """GPT-2 stores its matrices as [inputs, outputs]."""
    model = decoder(kind)
    halved, grouped = (cast(Decoder, zeroed(model, step, 0)) for step in (spec(0.5), pattern("2:4")))
    assert sparsity_facts(halved)["sparsity"] == 0.5
    assert torch.equal(*(cast(Any, each.head).weight for each in (halved, model)))
    for layer in multiplied(grouped).values():
        weight_OI = layer.weight.T if kind == "gpt2" else layer.weight
        assert ((weight_OI != 0).unflatten(1, (-1, 4)).sum(2) == 2).all()
    save(grouped, tmp_path)
    ids = torch.arange(5, 12).unsqueeze(0)
    given = {"input_ids": ids, "position_ids": torch.arange(7).unsqueeze(0)}
    with torch.inference_mode():
        assert torch.equal(load(tmp_path)(**given), grouped(**given))


@pytest.mark.parametrize("by", ["magnitude", "random"])
def test_what_stays_of_a_group_may_be_drawn(by: str):
    model = encoder_classifier(layers=1)
    weights = linear_weights(zeroed(model, pattern("2:4", by=by), 0))
    assert all(((weight != 0).unflatten(1, (-1, 4)).sum(2) == 2).all() for weight in weights.values())
    largest = linear_weights(zeroed(model, pattern("2:4"), 0))
    assert all(torch.equal(weights[name], largest[name]) for name in weights) == (by == "magnitude")


def test_a_graded_head_is_left_alone_too():
    model = EncoderClassifier(encoder_classifier(layers=1).encoder, "mean", [1.0, 2.0, 3.0])
    assert torch.equal(zeroed(model, spec(0.9), 0).head.score.weight, model.head.score.weight)  # pyright: ignore
    assert not [name for name in multiplied(model) if name.startswith("head")]


def test_the_report_states_the_share_of_zeros_of_each_layer():
    workplace = Alone(recipe=SimpleNamespace(seed=0))
    pruned = prune(encoder_classifier(), spec(0.5, name="first"), workplace)
    shares = {name: float((weight == 0).float().mean()) for name, weight in linear_weights(pruned).items()}
    assert workplace.facts == {"first": {"sparsity": 0.5, "layers": pytest.approx(shares, abs=1e-4)}}


def test_zeros_are_counted_in_layers_that_multiply():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1), nn.LayerNorm(1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
        model[0].weight[0, :2] = 0  # pyright: ignore[reportIndexIssue]
    assert sparsity_facts(model) == {"sparsity": 2 / 10, "layers": {"0": 0.25, "1": 0.0}}
    assert sparsity_facts(nn.LayerNorm(3)) == {"sparsity": 0, "layers": {}}
    alone = nn.Linear(1, 1)
    alone.weight.data.zero_()
    assert sparsity_facts(nn.Sequential(alone)) == {"sparsity": 1, "layers": {"0": 1}}
