"""Vocabulary pruning: the token embeddings and the tokenizer keep the tokens of the training rows.

Nearly all bytes of a small student are its vocabulary, and a shop's texts need a part of one for many uses (Abdaoui et
al. 2020, arXiv 2010.05609).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from configs.schema.compression import VocabularySpec
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Examples, Prepared
from jobs.data.vocabulary import reduced
from jobs.layout import pool_folder
from jobs.models.encoder import EncoderClassifier

FROM_PADDING = ("roberta", "xlm-roberta")  # kinds whose positions are counted from the id of the padding


def prune_vocabulary(model: EncoderClassifier, spec: VocabularySpec, context: StepContext) -> EncoderClassifier:
    """`model` for the tokens of a smaller tokenizer, which `context` adopts.

    Both together answer exactly as before where every token of a text is kept. Facts: tokens kept, tokens before, and
    the share of validation rows whose tokens have changed.
    """
    smaller = copy.deepcopy(model)
    config: Any = smaller.encoder.config
    table: Any = smaller.encoder.get_input_embeddings()
    named = {name: index for name, index in config.to_dict().items() if name.endswith("_token_id")}
    named = {name: index for name, index in named.items() if isinstance(index, int) and 0 <= index < len(table.weight)}
    counts = np.bincount(_learned(context), minlength=len(table.weight))
    wanted = {*np.flatnonzero(counts >= spec.min_count).tolist(), *range(spec.keep_first), *named.values()}
    if table.padding_idx is not None:
        wanted.add(table.padding_idx)
    before = context.prepared.examples("validation")
    tokenizer, kept = reduced(context.tokenizer, wanted, spec.characters)
    context.adopt(tokenizer)
    renumbered = np.full(len(table.weight), -1, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    for name, index in named.items():
        new = int(renumbered[index])
        setattr(config, name, new if new >= 0 else None)
    if config.model_type in FROM_PADDING:
        _move_padding(smaller.encoder, renumbered)
    config.vocab_size = len(kept)
    smaller.encoder.set_input_embeddings(_rows(table, kept))
    context.note(
        spec,
        tokens=len(kept),
        of=len(table.weight),
        validation_rows_changed=share_changed(before, context.prepared.examples("validation"), renumbered),
    )
    return smaller


def _learned(context: StepContext) -> np.ndarray:
    """The tokens of all rows that the student learned from."""
    parts = [context.prepared.examples("train").ids]
    if (pool := pool_folder(context.recipe)) is not None:
        parts.append(Prepared.open(pool).examples("train").ids)
    return np.concatenate(parts)


def _rows(table: nn.Embedding, kept: list[int]) -> nn.Embedding:
    padding = None if table.padding_idx is None else kept.index(table.padding_idx)
    return nn.Embedding.from_pretrained(table.weight.detach()[kept], freeze=False, padding_idx=padding)


def _move_padding(encoder: PreTrainedModel, renumbered: np.ndarray) -> None:
    """Give the padding its new id, and move the rows of the positions' table accordingly."""
    embeddings: Any = encoder.embeddings
    table, padding = embeddings.position_embeddings, int(renumbered[embeddings.padding_idx])
    unused = embeddings.padding_idx - padding
    embeddings.padding_idx = padding
    embeddings.position_embeddings = _rows(table, list(range(unused, len(table.weight))))
    encoder.config.max_position_embeddings -= unused


def share_changed(before: Examples, after: Examples, renumbered: np.ndarray) -> float:
    """Share of rows whose tokens differ from those `before` under their new numbers; a token left out has -1."""
    parts = zip(
        np.split(renumbered[before.ids], before.offsets[1:-1]), np.split(after.ids, after.offsets[1:-1]), strict=True
    )
    return sum(not np.array_equal(old, new) for old, new in parts) / len(before)
