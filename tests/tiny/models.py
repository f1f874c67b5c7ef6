"""Encoders and decoders of random weights, 32 wide, that a test makes in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from configs.schema.models import NewModelSpec
from jobs.models.decoder import Decoder, from_config, new_config
from jobs.models.encoder import EncoderClassifier

CLASSES = 5
VOCABULARY = 60
POSITIONS = 40
TRANSFORMERS: Mapping[str, Any] = {
    "bert": BertConfig,
    "electra": ElectraConfig,
    "roberta": RobertaConfig,
    "distilbert": DistilBertConfig,
    "modernbert": ModernBertConfig,
}


def config(kind: str, layers: int) -> PreTrainedConfig:
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
    if kind == "distilbert":
        return DistilBertConfig(dim=32, n_layers=layers, n_heads=2, hidden_dim=64, **common)
    common |= {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    if kind == "roberta":
        common |= {"type_vocab_size": 1}
    if kind == "electra":
        common |= {"embedding_size": 16}
    if kind == "modernbert":
        common |= {"local_attention": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        common |= {"cls_token_id": 1, "sep_token_id": 2}
    return TRANSFORMERS[kind](**common)


def encoder_classifier(kind: str = "bert", layers: int = 2, pooling: str = "mean", seed: int = 0) -> EncoderClassifier:
    """In eval mode; weights large enough that every part of it shows in the logits."""
    torch.manual_seed(seed)
    model = EncoderClassifier(AutoModel.from_config(config(kind, layers), dtype=torch.float32), pooling, CLASSES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def decoder(kind: str, layers: int = 2, tied: bool = True, vocabulary: int = VOCABULARY, seed: int = 0) -> Decoder:
    """In eval mode; the token 3 ends a text."""
    torch.manual_seed(seed)
    model = from_config(
        new_config(kind, NewModelSpec(layers=layers, hidden=32, heads=2, tied=tied), vocabulary, POSITIONS, 3)
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def packed(lengths: list[list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids and positions [B, L] of rows that hold texts of so many tokens, and padding of one token each."""
    longest = max(map(sum, lengths))
    rows = [[place for length in row for place in range(length)] for row in lengths]
    positions = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    ids = torch.randint(5, VOCABULARY, positions.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "position_ids": positions}


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids [B, L] whose rows end, under the mask, at random lengths of at least 2; the first row is full."""
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, tokens + 1, (rows, 1), generator=chance)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths).long()
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=chance)
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
