"""How attention is computed in training."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from cluster.spec import EngineSpec


def choose_attention(model: nn.Module, spec: EngineSpec) -> None:
    """In bfloat16 on a CPU, one matrix product after the other; elsewhere as the model has it.

    On a CPU the gradient of torch's fused attention (2.13) takes five to ten times as long over 16 to 128 tokens, and
    no less time at 256.
    """
    if spec.use_gpu or spec.precision == "fp32":
        return
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
