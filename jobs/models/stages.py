"""A model as the list of layers that a pipeline is cut from. The layers share their weights with the model."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cluster.engine import Layers, Tied
from configs.loader import UsageError
from jobs.models.decoder import Decoder
from jobs.models.encoder import EncoderClassifier, pool
from jobs.models.layers import layers_of

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")
DECODERS = ("gpt2", "llama", "qwen2")
Hidden = tuple[Tensor, Tensor]  # token vectors [B, L, H], and the mask of an encoder or the positions of a decoder


def encoder_layers(model: nn.Module) -> Layers:
    """Embeddings, every layer, pooling with head. Raises `UsageError` for a kind of encoder not in `ENCODERS`."""
    assert isinstance(model, EncoderClassifier)
    _known(model.encoder.config.model_type, ENCODERS)
    blocks = layers_of(model.encoder)
    return [_Embeddings(model), *(_Block(block, model.encoder.config) for block in blocks), _Head(model)]


def decoder_layers(model: nn.Module) -> Layers:
    """Token embeddings, every layer, norm, scores. Raises `UsageError` for a kind of decoder not in `DECODERS`."""
    assert isinstance(model, Decoder)
    kind = _known(model.lm.config.model_type, DECODERS)
    tokens, scores = model.lm.get_input_embeddings(), model.lm.get_output_embeddings()
    blocks = layers_of(model.lm)
    body: Any = model.lm.base_model
    if kind == "gpt2":
        inner: list[nn.Module] = [_Positions(body), *(_GPT2Block(block, body.config) for block in blocks)]
        inner.append(_Norm(body.ln_f))
    else:
        inner = [_RotaryBlock(block, body, number) for number, block in enumerate(blocks)]
        inner.append(_Norm(body.norm))
    if tokens.weight is scores.weight:  # pyright: ignore[reportOptionalMemberAccess]
        return [Tied("tokens", tokens, _look_up, False), *inner, Tied("tokens", tokens, _score, True)]
    return [_Tokens(tokens), *inner, scores]  # pyright: ignore[reportReturnType]


def _known(kind: str, kinds: tuple[str, ...]) -> str:
    if kind not in kinds:
        raise UsageError(f"engine.pipeline_stages: no pipeline for {kind!r} models; for {', '.join(kinds)}")
    return kind


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
    """Shares the head alone: a registered model would bring all its weights to this pipeline stage."""

    def __init__(self, model: EncoderClassifier) -> None:
        super().__init__()
        self.pooling, self.dropout, self.head = model.pooling, model.dropout, model.head

    def forward(self, inputs: Hidden) -> Tensor:
        hidden_BLH, mask_BL = inputs
        return self.head(self.dropout(pool(hidden_BLH, mask_BL, self.pooling)))


def _look_up(tokens: nn.Module, inputs: tuple[Tensor, Tensor]) -> Hidden:
    ids_BL, positions_BL = inputs
    return tokens(ids_BL), positions_BL


def _score(tokens: Any, hidden_BLH: Tensor) -> Tensor:
    return F.linear(hidden_BLH, tokens.weight)


class _Tokens(nn.Module):
    def __init__(self, tokens: nn.Module) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Hidden:
        return _look_up(self.tokens, inputs)


class _Positions(nn.Module):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.wpe, self.drop = body.wpe, body.drop

    def forward(self, inputs: Hidden) -> Hidden:
        hidden_BLH, positions_BL = inputs
        return self.drop(hidden_BLH + self.wpe(positions_BL)), positions_BL


class _GPT2Block(nn.Module):
    def __init__(self, block: nn.Module, config: Any) -> None:
        super().__init__()
        self.block, self.config = block, config

    def forward(self, inputs: Hidden) -> Hidden:
        from transformers.masking_utils import create_causal_mask

        hidden_BLH, positions_BL = inputs
        mask = create_causal_mask(self.config, hidden_BLH, None, None, position_ids=positions_BL)
        return self.block(hidden_BLH, attention_mask=mask, position_ids=positions_BL), positions_BL


class _RotaryBlock(nn.Module):
    def __init__(self, block: nn.Module, body: Any, number: int) -> None:
        super().__init__()
        self.block, self.rotary, self.config = block, body.rotary_emb, body.config
        kinds = getattr(body.config, "layer_types", None)
        self.slides = bool(kinds) and kinds[number] == "sliding_attention"

    def forward(self, inputs: Hidden) -> Hidden:
        from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

        hidden_BLH, positions_BL = inputs
        create = create_sliding_window_causal_mask if self.slides else create_causal_mask
        hidden_BLH = self.block(
            hidden_BLH,
            attention_mask=create(self.config, hidden_BLH, None, None, position_ids=positions_BL),
            position_ids=positions_BL,
            position_embeddings=self.rotary(hidden_BLH, positions_BL),
        )
        return hidden_BLH, positions_BL


class _Norm(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, inputs: Hidden) -> Tensor:
        return self.norm(inputs[0])
