from __future__ import annotations

import numpy as np
import pytest
import torch

from jobs.data.batches import (
    NO_TARGET,
    collate,
    collate_packs,
    global_batches,
    pack,
    packed_batches,
    shard,
)
from jobs.data.prepared import Examples

LENGTHS = np.random.default_rng(0).integers(3, 41, size=1000)


def examples(lengths: list[int]) -> Examples:
    """Row i holds the tokens 100 i, 100 i + 1, ...; the last of each is in the second text."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([100 * row + np.arange(length) for row, length in enumerate(lengths)]).astype(np.int32)
    types = np.zeros(len(ids), np.int8)
    types[offsets[1:] - 1] = 1
    return Examples(ids, types, offsets, np.arange(len(lengths)) % 3)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_batches_are_a_function_of_lengths_seed_epoch_and_budget():
    once = as_lists(global_batches(LENGTHS, 1, 2, 512))
    np.random.seed(7)  # the global generator must not matter
    assert as_lists(global_batches(LENGTHS.copy(), 1, 2, 512)) == once
    for other in (
        global_batches(LENGTHS, 2, 2, 512),
        global_batches(LENGTHS, 1, 3, 512),
        global_batches(LENGTHS, 1, 2, 513),
        global_batches(LENGTHS[::-1], 1, 2, 512),
    ):
        assert as_lists(other) != once


@pytest.mark.parametrize("budget", [1, 40, 64, 512, 10**9])
def test_every_row_is_in_exactly_one_batch(budget: int):
    batches = global_batches(LENGTHS, 0, 0, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
    assert all(len(batch) for batch in batches)


@pytest.mark.parametrize("budget", [1, 40, 64, 512, 4096])
def test_the_padded_size_of_a_batch_is_within_the_budget_or_it_is_one_row(budget: int):
    for batch in global_batches(LENGTHS, 0, 0, budget):
        assert len(batch) * LENGTHS[batch].max() <= budget or len(batch) == 1


def test_batches_by_length_hold_hardly_any_padding():
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in global_batches(LENGTHS, 0, 0, 512))
    assert LENGTHS.sum() / padded > 0.9


def test_batches_are_not_trained_in_the_order_of_length():
    longest = [LENGTHS[batch].max() for batch in global_batches(LENGTHS, 0, 0, 512)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_a_single_row_is_one_batch():
    assert as_lists(global_batches(np.array([5]), 0, 0, 512)) == [[0]]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_shards_of_all_ranks_hold_every_row_once(world: int, parts: int, size: int):
    batch = np.arange(100, 100 + size)
    shards = [shard(batch, rank, world, parts) for rank in range(world)]
    assert {len(each) for each in shards} == {parts}
    assert sorted(np.concatenate([rows for each in shards for rows in each])) == batch.tolist()
    sizes = [len(rows) for each in shards for rows in each]
    assert max(sizes) - min(sizes) <= 1


def test_collate_pads_with_masked_zeros():
    made = collate(examples([3, 1, 2]), np.array([2, 0]), length=4)
    assert made["input_ids"].tolist() == [[200, 201, 0, 0], [0, 1, 2, 0]]
    assert made["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert made["token_type_ids"].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert made["label"].tolist() == [2, 0]
    assert made["weight"].tolist() == [1.0, 1.0]
    assert {made[name].dtype for name in ("input_ids", "attention_mask", "token_type_ids", "label")} == {torch.int64}


def test_collate_without_rows_is_one_blank_row_of_no_weight():
    made = collate(examples([3]), np.array([], dtype=np.int64), length=4)
    assert made["weight"].tolist() == [0.0]
    assert made["input_ids"].tolist() == [[0, 0, 0, 0]]
    assert made["attention_mask"].tolist() == [[1, 0, 0, 0]]  # no mean over nothing
    assert made["label"].tolist() == [0]


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 3), (3, 2), (5, 4)])
def test_loss_and_gradient_are_the_same_however_a_batch_is_split(world: int, parts: int):
    """Sums over examples divided by the global number of examples, blank rows included."""
    data = examples([3, 5, 2, 4, 1, 6, 2])
    batch = np.array([6, 0, 3, 1, 5, 2, 4])
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def total(rows: np.ndarray) -> torch.Tensor:
        made = collate(data, rows, int(data.lengths[batch].max()))
        tokens = made["input_ids"] % 7
        logits = (weights[tokens] * made["attention_mask"].unsqueeze(-1)).sum(1)
        loss = torch.nn.functional.cross_entropy(logits, made["label"], reduction="none")
        return (loss * made["weight"]).sum() / len(batch)

    whole = total(batch)
    (expected,) = torch.autograd.grad(whole, weights)
    split = torch.stack([total(rows) for rank in range(world) for rows in shard(batch, rank, world, parts)]).sum()
    (got,) = torch.autograd.grad(split, weights)
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(got, expected)


def test_packed_batches_hold_every_row_once_and_about_the_budget_of_tokens():
    batches = packed_batches(LENGTHS, seed=1, epoch=2, tokens_per_batch=500)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    tokens = [int(LENGTHS[batch].sum()) for batch in batches]
    assert max(tokens) < 500 + LENGTHS.max()
    assert np.mean(tokens[:-1]) == pytest.approx(500, rel=0.02)
    again, other = (packed_batches(LENGTHS, 1, epoch, 500) for epoch in (2, 3))
    assert as_lists(again) == as_lists(batches) != as_lists(other)


def test_packs_hold_every_row_once_and_never_too_many_tokens():
    packs = pack(LENGTHS, 64)
    assert sorted(row for rows in packs for row in rows) == list(range(len(LENGTHS)))
    sizes = [int(LENGTHS[rows].sum()) for rows in packs]
    assert max(sizes) <= 64
    assert len(packs) <= 1.03 * LENGTHS.sum() / 64


def test_a_row_longer_than_a_pack_is_one_of_its_own():
    assert pack(np.array([3, 9, 2]), 5) == [[1], [0, 2]]
    assert pack(np.array([3, 2]), 0) == [[0], [1]]


def test_a_packed_row_starts_positions_anew_and_aims_at_the_next_token_of_what_is_to_be_generated():
    three = examples([3, 2, 4])  # the last token of each is to be generated
    batch = collate_packs(three, [np.array([0, 1]), np.array([2])], 6, count=3)
    assert batch["input_ids"].tolist() == [[0, 1, 2, 100, 101, 0], [200, 201, 202, 203, 0, 0], [0] * 6]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0], [0] * 6]
    no = NO_TARGET
    assert batch["target"].tolist() == [[no, 2, no, 101, no, no], [no, no, 203, no, no, no], [no] * 6]
    assert batch["weight"].tolist() == [1, 1, 0]
    assert [int((batch["target"][row] != no).sum()) for row in range(2)] == [three.targets[:2].sum(), three.targets[2]]
