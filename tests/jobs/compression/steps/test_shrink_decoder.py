"""The step on decoders: fused matrices, gated units, heads that share keys and values."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from configs.loader import UsageError
from configs.schema.compression import ShrinkSpec
from configs.schema.models import StudentSpec
from jobs.compression.export import ctranslate2
from jobs.compression.importance import Importance, importance, magnitude, taylor
from jobs.compression.steps.shrink import of_parts, shrink
from jobs.models.decoder import Decoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import LayerSize, body_of, layers_of, sizes_of
from jobs.models.narrow import largest
from jobs.models.plain import plain
from jobs.models.student import encoder_student
from jobs.training.loss import completion_loss
from tests.jobs.models.test_narrow_decoder import WIDE, family
from tests.tiny.models import CLASSES, VOCABULARY, batch, decoder, packed
from tests.tiny.texts import write_tokens
from tests.tiny.workplace import Alone, completed, workplace

KINDS = ("gpt2", "llama", "qwen3")
GIVEN = packed([[9, 3], [7]])


def of_kind(kind: str, folder: Path) -> Decoder:
    """Llama's and Qwen's have four heads that share two of keys and values, GPT-2 has two."""
    return family(kind, folder, **({} if kind == "gpt2" else WIDE))


def chances(model: Decoder) -> Importance:
    """Importance that says nothing but differs."""
    chance = torch.Generator().manual_seed(0)
    sizes = sizes_of(model.lm.config)
    heads = [torch.rand(each.heads, generator=chance) for each in sizes]
    units = [torch.rand(each.feed_forward, generator=chance) for each in sizes]
    return Importance(heads, units, torch.rand(model.lm.config.hidden_size, generator=chance))


def under_masks(model: Decoder, heads: dict[int, torch.Tensor], units: dict[int, torch.Tensor]) -> Decoder:
    """`model` whose layers, those that are named, write by the given heads and units alone."""
    dense: Any = copy.deepcopy(model)
    layers = layers_of(dense.lm)
    gpt2 = dense.lm.config.model_type == "gpt2"
    for number, heads_A in heads.items():
        attended = layers[number].get_submodule("attn.c_proj" if gpt2 else "self_attn.o_proj")
        narrowed = layers[number].get_submodule("mlp.c_proj" if gpt2 else "mlp.down_proj")
        for module, mask in ((attended, heads_A.repeat_interleave(16)), (narrowed, units[number])):
            module.register_forward_pre_hook(lambda module, inputs, mask=mask: (inputs[0] * mask,))
    for number in reversed(range(3)):
        if number not in heads:
            del layers[number]
    return dense


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_decoder_is_the_dense_one_under_masks(kind: str, tmp_path: Path):
    model = of_kind(kind, tmp_path)
    found, size = chances(model), sizes_of(model.lm.config)[0]
    kept: dict[int, LayerSize] = dict.fromkeys((0, 2), size._replace(feed_forward=24, heads=2))
    made = of_parts(model, kept, found, torch.arange(32))
    assert sizes_of(body_of(made)[1].config) == [kept[0]] * 2
    heads, units = {}, {}
    for number in kept:
        groups = found.heads[number].view(2, -1)  # of two heads each, of which the better group stays
        stays = groups.sum(1) == groups.sum(1).max() if size.heads == 4 else torch.tensor([True, True])
        heads[number] = stays.repeat_interleave(size.heads // 2).float()
        units[number] = torch.zeros(size.feed_forward)
        units[number][largest(found.units[number], 24)] = 1
    with torch.inference_mode():
        expected = under_masks(model, heads, units)(**GIVEN)
        torch.testing.assert_close(made(**GIVEN), expected, rtol=1e-4, atol=1e-5)
        assert (expected - model(**GIVEN)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_that_loses_nothing_is_the_same(kind: str, tmp_path: Path):
    model = of_kind(kind, tmp_path)
    spec = ShrinkSpec(step="shrink", importance="magnitude", heads=1.0, layers=3, feed_forward=1.0)
    made = shrink(model, spec, Alone(folder=tmp_path))
    torch.testing.assert_close(made.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_classifier_over_a_decoder_is_narrowed_and_shrunk_alike(kind: str, tmp_path: Path):
    torch.manual_seed(0)
    body = AutoModel.from_config(decoder(kind).lm.config, dtype=torch.float32)
    model, given = EncoderClassifier(body, "mean", CLASSES).eval(), batch(3, 9)
    same = encoder_student(model, StudentSpec(layers=2, hidden=32, heads=2)).eval()
    torch.testing.assert_close(same.state_dict(), model.state_dict(), rtol=0, atol=0)
    made = shrink(model, by_magnitude(heads=1, feed_forward=40, hidden=16, layers=1), Alone(folder=tmp_path))
    assert sizes_of(body_of(made)[1].config) == [LayerSize(1, 16, 40)]
    assert made(**given).shape == (3, CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_taylor_is_the_sum_of_weight_times_gradient_over_each_structure(kind: str, tmp_path: Path):
    model = of_kind(kind, tmp_path)
    given = GIVEN | {"target": torch.where(GIVEN["position_ids"] > 2, GIVEN["input_ids"], -100)}
    found = taylor(model, [given], lambda logits, batch: completion_loss(logits, batch["target"]))
    model.zero_grad()
    completion_loss(model(GIVEN["input_ids"], GIVEN["position_ids"]), given["target"]).mean().backward()
    felt: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        felt[name] = (weight * weight.grad).abs().detach()
    if kind == "gpt2":
        rows_QKV = felt["lm.transformer.h.1.attn.c_attn.weight"].sum(0) + felt["lm.transformer.h.1.attn.c_attn.bias"]
        read, written = rows_QKV.view(3, 2, 16).sum((0, 2)), felt["lm.transformer.h.1.attn.c_proj.weight"].sum(1)
        units = felt["lm.transformer.h.1.mlp.c_fc.weight"].sum(0) + felt["lm.transformer.h.1.mlp.c_fc.bias"]
        units = units + felt["lm.transformer.h.1.mlp.c_proj.weight"].sum(1)
    else:
        own = {name.removeprefix("lm.model.layers.1."): each for name, each in felt.items() if ".layers.1." in name}
        shared = (own["self_attn.k_proj.weight"] + own["self_attn.v_proj.weight"]).view(2, -1).sum(1) / 2
        read = own["self_attn.q_proj.weight"].view(4, -1).sum(1) + shared.repeat_interleave(2)
        written = own["self_attn.o_proj.weight"].sum(0)
        units = own["mlp.gate_proj.weight"].sum(1) + own["mlp.up_proj.weight"].sum(1)
        units = units + own["mlp.down_proj.weight"].sum(0)
    torch.testing.assert_close(found.heads[1], read + written.view(len(read), 16).sum(1))
    torch.testing.assert_close(found.units[1], units)
    tokens = next(each for name, each in felt.items() if "wte" in name or "embed_tokens" in name)
    assert (found.dims >= tokens.sum(0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gated_unit_weighs_the_product_of_its_three_norms(kind: str, tmp_path: Path):
    model = of_kind(kind, tmp_path)
    weights = plain(kind, dict(model.named_parameters()))
    at = {"gpt2": "lm.transformer.h", "llama": "lm.model.layers", "qwen3": "lm.model.layers"}[kind]
    found, names = magnitude(model), ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    if kind == "gpt2":
        with_bias = torch.cat([weights[f"{at}.0.mlp.c_fc.weight"], weights[f"{at}.0.mlp.c_fc.bias"][:, None]], dim=1)
        units = with_bias.norm(dim=1) * weights[f"{at}.0.mlp.c_proj.weight"].norm(dim=0)
    else:
        gate, up, down = (weights[f"{at}.0.{name}.weight"] for name in names)
        units = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    torch.testing.assert_close(found.units[0] / found.units[0].sum(), (units / units.sum()).detach())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_smaller_decoder_is_exported(kind: str, tmp_path: Path):
    spec, heads = by_magnitude(heads=0.5, hidden=16, feed_forward=40), {"gpt2": 1, "llama": 2}[kind]
    made = shrink(of_kind(kind, tmp_path), spec, Alone(folder=tmp_path))
    assert sizes_of(body_of(made)[1].config)[0] == LayerSize(heads, 16, 40)
    ctranslate2.try_export(body_of(made)[1].config)  # a new model of these sizes, which is compared


def by_magnitude(**fields: Any) -> ShrinkSpec:
    return ShrinkSpec.model_validate({"step": "shrink", "importance": "magnitude"} | fields)


def test_the_step_asks_rows_or_the_stored_tokens_of_the_teacher(tmp_path: Path):
    model = decoder("llama", layers=3)
    rows = completed(model, 24)
    place = workplace(tmp_path, model, rows, rows, task="generate", compression=[{"step": "export"}])
    write_tokens(tmp_path / "teacher_outputs", rows, VOCABULARY)
    by = {}
    for loss in ("teacher", "labels"):
        spec = ShrinkSpec(step="shrink", loss=loss, layers=2, heads=1, feed_forward=0.5, hidden=16)
        by[loss] = importance(model, spec, place)
        made = shrink(model, spec, place)
        assert sizes_of(body_of(made)[1].config) == [LayerSize(1, 16, 48)] * 2
    assert not torch.equal(by["teacher"].units[0], by["labels"].units[0])
    facts = json.loads(json.dumps(place.facts["shrink"]))
    assert 0 < facts["importance_lost"] < 1 and facts["parameters"]["after"] < facts["parameters"]["before"]


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("llama", {"speedup": 2}, "compression.shrink.speedup: the times of a llama model's blocks are not measured"),
        (
            "llama",
            {"heads": 3, "hidden": 30},
            "compression.shrink.heads: 3: 4 heads share 2 of keys and values, 2 each",
        ),
        ("llama", {"hidden": 31, "heads": 2}, "compression.shrink.hidden: 31: 2 heads cannot share it"),
        ("gpt2", {"heads": 1}, "heads of a gpt2 model, 16 wide here, share its width; give hidden=16 with heads=1"),
        ("gpt2", {"hidden": 30}, "compression.shrink.hidden: heads of a gpt2 model, 16 wide here, share its width"),
        ("gemma", {"heads": 1}, "compression.shrink: no heads and units known for 'gemma' models; for bert, "),
    ],
    ids=str,
)
def test_what_a_decoder_cannot_lose_is_refused(kind: str, fields: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(UsageError) as refused:
        shrink(of_kind(kind, tmp_path), by_magnitude(**fields), Alone(folder=tmp_path))
    assert said in str(refused.value)
