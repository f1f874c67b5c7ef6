"""An encoder as the list of layers that a pipeline is cut from. They share their weights with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from configs.loader import UsageError
from jobs.models.encoder import EncoderClassifier, pool
from jobs.models.student import LAYERS

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")
Hidden = tuple[Tensor, Tensor]  # token vectors [B, L, H] and the mask [B, L]


def encoder_layers(model: nn.Module) -> Sequence[nn.Module]:
    """Embeddings, every layer, pooling with head. Raises `UsageError` for a kind of encoder that is not known so."""
    assert isinstance(model, EncoderClassifier)
    kind = model.encoder.config.model_type
    if kind not in ENCODERS:
        raise UsageError(f"engine.pipeline_stages: no pipeline for {kind!r} models; for {', '.join(ENCODERS)}")
    blocks: nn.ModuleList = model.encoder.get_submodule(LAYERS[kind])  # pyright: ignore[reportAssignmentType]
    return [_Embeddings(model), *(_Block(block, model.encoder.config) for block in blocks), _Head(model)]


class _Embeddings(nn.Module):
    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.embeddings: Any = model.encoder.embeddings
        self.has_types = model.has_types

    def forward(self, inputs: tuple[Tensor, Tensor, Tensor]) -> Hidden:
        ids_BL, mask_BL, types_BL = inputs
        types = {"token_type_ids": types_BL} if self.has_types else {}
        return self.embeddings(input_ids=ids_BL, **types), mask_BL


class _Block(nn.Module):
    def __init__(self, block: nn.Module, config: Any) -> None:
        super().__init__()
        self.block, self.config = block, config

    def forward(self, inputs: Hidden) -> Hidden:
        from transformers.masking_utils import create_bidirectional_mask

        hidden_BLH, mask_BL = inputs
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_BLH, attention_mask=mask_BL)
        return self.block(hidden_BLH, mask), mask_BL


class _Head(nn.Module):
    """Shares the head alone: a registered model would bring all its weights to this stage."""

    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.pooling, self.dropout, self.head = model.pooling, model.dropout, model.head

    def forward(self, inputs: Hidden) -> Tensor:
        hidden_BLH, mask_BL = inputs
        return self.head(self.dropout(pool(hidden_BLH, mask_BL, self.pooling)))
