"""Training with the used rows of the token table against training with all of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import RobertaConfig, RobertaModel

from configs.schema.models import TeacherSpec
from jobs.data.batches import collate
from jobs.data.prepared import Examples
from jobs.models import encoder
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.training.tokens import UsedTokens

CLASSES = ["a", "b", "c"]
TOKENS = [[2, 40, 41, 40, 3], [2, 7, 3], [2, 250, 9, 41, 3], [2, 9, 9, 3]]


@pytest.fixture
def rows() -> Examples:
    ids = np.concatenate(TOKENS).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(list(map(len, TOKENS)))])
    return Examples(ids, np.zeros(len(ids), dtype=np.int8), offsets, np.array([0, 1, 2, 0]))


@pytest.fixture
def model(tiny_teacher: Path) -> EncoderClassifier:
    torch.manual_seed(0)
    return encoder.pretrained(TeacherSpec(model=str(tiny_teacher)), CLASSES).eval()


def table(model: EncoderClassifier) -> torch.Tensor:
    tokens: Any = model.encoder.get_input_embeddings()
    return tokens.weight.detach()


def train(model: EncoderClassifier, rows: Examples, decay: float) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)
    losses = []
    for chosen in ([0, 1], [2, 3], [1, 3]):
        batch = collate(rows, np.array(chosen), 6)
        loss = F.cross_entropy(model(**{name: batch[name] for name in INPUTS}), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_used_part_of_the_table_learns_what_the_whole_does(model: EncoderClassifier, rows: Examples):
    whole = copy.deepcopy(model)
    tokens = UsedTokens(model, rows)
    assert len(table(model)) == len(np.unique([0, *np.concatenate(TOKENS)]))
    losses = train(model, tokens.renumbered(rows), decay=0.0)
    assert losses == pytest.approx(train(whole, rows, decay=0.0), rel=1e-5)
    tokens.restore(model)
    torch.testing.assert_close(model.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)


def test_tokens_that_no_row_has_do_not_decay(model: EncoderClassifier, rows: Examples):
    before = table(model).clone()
    tokens = UsedTokens(model, rows)
    train(model, tokens.renumbered(rows), decay=0.1)
    tokens.restore(model)
    after = table(model)
    unused = np.setdiff1d(np.arange(len(before)), [0, *np.concatenate(TOKENS)])
    assert torch.equal(after[unused], before[unused])
    assert not torch.equal(after[40], before[40])


def test_all_given_rows_keep_their_tokens(model: EncoderClassifier, rows: Examples):
    ids = np.array([2, 99, 3], dtype=np.int32)
    further = Examples(ids, np.zeros(3, dtype=np.int8), np.array([0, 3]), np.array([1]))
    batch = collate(further, np.array([0]), 3)
    said = model(**{name: batch[name] for name in INPUTS})
    tokens = UsedTokens(model, rows, further)
    batch = collate(tokens.renumbered(further), np.array([0]), 3)
    torch.testing.assert_close(model(**{name: batch[name] for name in INPUTS}), said)


def test_a_roberta_counts_its_positions_as_before(rows: Examples):
    """By the ids that are not padding's, which is 1 there."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = EncoderClassifier(RobertaModel(config), "mean", 3).eval()
    batch = collate(rows, np.arange(4), 6)
    said = model(**{name: batch[name] for name in INPUTS})
    tokens = UsedTokens(model, rows)
    batch = collate(tokens.renumbered(rows), np.arange(4), 6)
    torch.testing.assert_close(model(**{name: batch[name] for name in INPUTS}), said)
    tokens.restore(model)
    batch = collate(rows, np.arange(4), 6)
    torch.testing.assert_close(model(**{name: batch[name] for name in INPUTS}), said)


def of(*texts: list[int]) -> Examples:
    ids = np.concatenate(texts).astype(np.int32)
    offsets = np.cumsum([0, *map(len, texts)])
    return Examples(ids, np.zeros(len(ids), np.int8), offsets, np.zeros(len(texts), np.int64))


def test_the_first_and_the_last_token_of_the_table_are_tokens_like_any_other(model: EncoderClassifier):
    whole, last = table(model).clone(), len(table(model)) - 1
    given = of([0, last, 1], [last - 1])
    tokens = UsedTokens(model, given)
    found = tokens.renumbered(given)
    assert found.ids.dtype == given.ids.dtype
    assert found.ids.tolist() == [0, 3, 1, 2]  # the table of four
    assert torch.equal(table(model), whole[[0, 1, last - 1, last]])
    table(model)[3] += 1
    tokens.restore(model)
    changed = (table(model) != whole).any(1)
    assert len(table(model)) == last + 1 and changed.nonzero().flatten().tolist() == [last]


def test_an_id_that_leaves_the_table_is_refused(model: EncoderClassifier):
    with pytest.raises(IndexError):
        UsedTokens(model, of([2, len(table(model)), 3]))


def test_padding_has_its_place_where_no_row_has_any(model: EncoderClassifier):
    tokens = UsedTokens(model, of([7, 9]))
    assert len(table(model)) == 3
    assert tokens.renumbered(of([9, 7])).ids.tolist() == [2, 1]
