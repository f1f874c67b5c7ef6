from __future__ import annotations

import math

import pytest
import torch

from jobs.models.items import BEGIN, ItemSizes, NextItems

SIZES = ItemSizes(items=9, hidden=8, layers=2, heads=2, max_length=12, dropout=0.0)


@pytest.fixture
def model() -> NextItems:
    torch.manual_seed(0)
    return NextItems(SIZES).eval()


def logits(model: NextItems, *rows: list[int], ends: list[list[int]] | None = None) -> torch.Tensor:
    """Of histories of item numbers, one basket each event, at their last event unless `ends` says other places."""
    length = 1 + max(map(len, rows))
    ids, positions = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
    ends_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row) + 1] = torch.tensor([BEGIN, *(item + 1 for item in row)])
        positions[index, : len(row) + 1] = torch.arange(len(row) + 1)
        ends_BL[index, ends[index] if ends else [len(row)]] = True
    with torch.inference_mode():
        return model(ids, positions, ends_BL)


def test_every_item_is_scored_at_every_end(model: NextItems):
    found = logits(model, [1, 2, 3], [4], ends=[[0, 2, 3], [1]])
    assert found.shape == (4, 9)
    assert found.isfinite().all()


def test_a_place_sees_nothing_that_comes_after_it(model: NextItems):
    first, second = (logits(model, [1, 2, *rest], ends=[[0, 1, 2]]) for rest in ([3, 4], [8, 8]))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, logits(model, [5, 2, 3, 4], ends=[[0, 1, 2]]))


def test_a_history_is_scored_alone_as_among_longer_ones(model: NextItems):
    rows = [[1], [], [3, 2, 1, 4, 5], [7, 7]]
    torch.testing.assert_close(logits(model, *rows), torch.cat([logits(model, row) for row in rows]))


def test_what_a_customer_has_is_scored_by_how_often(model: NextItems):
    """With no vectors of items left, all that tells items apart is the count up to the end."""
    with torch.no_grad():
        model.items.weight.zero_()
        model.repeat.weight.zero_()
        model.repeat.bias.fill_(0.5)
    first, last = logits(model, [1, 2, 1], ends=[[1, 3]])
    weight = math.log1p(math.exp(0.5))
    assert first.tolist() == pytest.approx([0, weight * math.log(2), *[0] * 7])
    assert last.tolist() == pytest.approx([0, weight * math.log(3), weight * math.log(2), *[0] * 6])


def test_an_event_counts_by_its_age(model: NextItems):
    with torch.no_grad():
        model.items.weight.zero_()
        model.repeat.weight.zero_()
        model.repeat.bias.zero_()
        model.age[:3] = torch.tensor([4.0, 0.5, 0.25]).log()  # of the last basket, and of those before it
    weight = math.log(2)  # softplus of 0
    (found,) = logits(model, [1, 2, 1])
    assert found[1:3].tolist() == pytest.approx([weight * math.log(1 + 4.25), weight * math.log(1.5)])


def test_a_model_learns_what_follows_what():
    torch.manual_seed(0)
    model = NextItems(SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ids = torch.tensor([[BEGIN, *((start + step) % 9 + 1 for step in range(5))] for start in range(9)])
    positions, ends = torch.arange(6).expand(9, 6), torch.ones(9, 6, dtype=torch.bool)
    ends[:, [0, 5]] = False
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(ids, positions, ends), ids[:, 2:].flatten() - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = logits(model.eval(), *([start, (start + 1) % 9] for start in range(9)))
    assert found.argmax(-1).tolist() == [(start + 2) % 9 for start in range(9)]
