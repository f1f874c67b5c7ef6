"""Adapters: low-rank matrices beside a model's own ones, which learn in their place (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from configs.loader import UsageError
from configs.schema.models import ALL, AdapterSpec
from jobs.models.layers import body_of


def check_adapter(field: str, spec: AdapterSpec, config: PreTrainedConfig) -> None:
    """Raise `UsageError`, naming `field`, where models of `config` have no such matrices; builds one without memory."""
    with torch.device("meta"):
        body = AutoModel.from_config(config, trust_remote_code=False)
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in _matrices(body)))
    for asked in [] if spec.modules == ALL else spec.modules:
        if not any(_is(name, asked) for name in _matrices(body)):
            near = difflib.get_close_matches(asked, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
            raise UsageError(f"{field}.modules: {asked!r}: no matrix of a {config.model_type} model; {remedy}")
    if not known:
        raise UsageError(f"{field}: a {config.model_type} model has no matrices that an adapter could stand beside")


def add_adapter(model: nn.Module, spec: AdapterSpec) -> None:
    """Put adapters into the layers of `model`, which then learns by them and by its head alone.

    It answers as before: the second matrix of each begins as zero. The scores of a decoder's tokens have none.
    """
    from peft import LoraConfig, inject_adapter_in_model

    body: Any = body_of(model)[1]
    chosen = [name for name in _matrices(body) if spec.modules == ALL or any(_is(name, each) for each in spec.modules)]
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType] - it divides it by the rank
        lora_dropout=spec.dropout,
        target_modules=rf"^(?:{'|'.join(map(_literal, chosen))})$",
        fan_in_fan_out=any(isinstance(body.get_submodule(name), Conv1D) for name in chosen),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Conv1D beside Linear, which it sorts out by itself
        inject_adapter_in_model(config, body)
    del body.peft_config


def merge_adapter(model: nn.Module) -> None:
    """Add what the adapters of `model` learned to its own matrices, and take them out; does nothing without any."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    model.requires_grad_(True)


def learning(model: nn.Module) -> str:
    """How many of the weights of `model` learn, in words."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return f"{sum(size for size, learns in sizes if learns):,} of {sum(size for size, _ in sizes):,} weights"


def _matrices(body: PreTrainedModel) -> Iterator[str]:
    """Names of the matrices of the layers: not of the embeddings, nor of the layer that scores tokens."""
    scores = body.get_output_embeddings()
    for name, module in body.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not scores and math.prod(module.weight.shape):
            yield name


def _is(name: str, asked: str) -> bool:
    return name == asked or name.endswith(f".{asked}")


def _literal(name: str) -> str:
    return name.replace(".", r"\.")
