from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from configs.loader import UsageError
from configs.schema.models import AdapterSpec
from jobs.models.adapter import add_adapter, check_adapter, learning, merge_adapter
from tests.tiny.models import batch, decoder, encoder_classifier, packed

DECODERS = ("gpt2", "llama", "qwen2")


def of_kind(kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
    return (decoder(kind), packed([[9, 3], [7]])) if kind in DECODERS else (encoder_classifier(kind), batch(3, 9))


def learn(model: nn.Module, given: dict[str, torch.Tensor]) -> list[str]:
    """Two steps, as the first moves only the second matrix of each pair; the names of what moved."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    step = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(2):
        step.zero_grad()
        model(**given).square().mean().backward()
        step.step()
    return [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]


@pytest.mark.parametrize("kind", [*DECODERS, "bert", "distilbert"])
def test_adapters_alone_learn_and_are_merged_into_the_same_model(kind: str):
    model, given = of_kind(kind)
    names = [name for name, _ in model.named_parameters()]
    with torch.inference_mode():
        before = model(**given)
    add_adapter(model, AdapterSpec(rank=4, alpha=32))
    with torch.inference_mode():
        torch.testing.assert_close(model(**given), before)
    moved = learn(model, given)
    assert moved and all("lora_" in name or name.startswith("head.") for name in moved)
    assert {name.split(".lora_")[0] for name in moved if "lora_A" in name} == {
        name.split(".lora_")[0] for name in moved if "lora_B" in name
    }
    with torch.inference_mode():
        unmerged = model(**given)
        merge_adapter(model)
        torch.testing.assert_close(model(**given), unmerged, rtol=1e-5, atol=1e-5)
    assert (unmerged - before).abs().max() > 1e-2
    assert [name for name, _ in model.named_parameters()] == names
    assert all(weight.requires_grad for weight in model.parameters())


def test_only_the_given_matrices_have_an_adapter():
    model = decoder("llama")
    add_adapter(model, AdapterSpec(rank=2, modules=["q_proj", "self_attn.v_proj"]))
    having = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}
    assert having == {"q_proj", "v_proj"}
    assert learning(model).startswith(f"{2 * 2 * (2 * 32 + 2 * 32):,} of ")


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("llama", "q_prj", r"'q_prj': no matrix of a llama model; did you mean 'q_proj'\?"),
        ("gpt2", "c_atn", r"'c_atn': no matrix of a gpt2 model; did you mean 'c_attn'\?"),
        ("gpt2", "xyz", r"'xyz': no matrix of a gpt2 model; one of c_attn, c_proj, c_fc$"),
        ("llama", "lm_head", r"'lm_head': no matrix of a llama model; "),
        ("llama", "embed_tokens", r"'embed_tokens': no matrix of a llama model; "),
    ],
)
def test_a_matrix_that_is_not_there_is_refused_with_the_nearest(kind: str, asked: str, said: str):
    config = decoder(kind).lm.config
    check_adapter("teacher.adapter", AdapterSpec(modules=["mlp.c_proj" if kind == "gpt2" else "up_proj"]), config)
    with pytest.raises(UsageError, match=rf"^teacher\.adapter\.modules: {said}"):
        check_adapter("teacher.adapter", AdapterSpec(modules=[asked]), config)
