from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models

from cluster.session import JobError
from configs.schema.compression import ShrinkSpec
from jobs.compression.importance import Importance, importance, magnitude, taylor, teacher_loss
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Examples
from jobs.models.layers import KNOWN, layers_of
from tests.tiny.models import CLASSES, batch, encoder_classifier
from tests.tiny.workplace import Alone


def labelled(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    given = batch(rows, 9, seed)
    types = torch.zeros_like(given["input_ids"])
    return given | {"token_type_ids": types, "label": torch.randint(CLASSES, (rows,), generator=chance)}


def cross_entropy(logits_BC: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(logits_BC, given["label"], reduction="none")


def test_taylor_is_the_sum_of_weight_times_gradient_over_each_structure():
    model, batches = encoder_classifier(), [labelled(4, seed=1), labelled(2, seed=2)]
    found = taylor(model, batches, cross_entropy)
    expected_heads, expected_units = torch.zeros(2, 2), torch.zeros(2, 64)
    expected_dims = torch.zeros(32)
    for given in batches:
        inputs = {name: given[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        model.zero_grad()
        F.cross_entropy(model(**inputs), given["label"]).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            felt = (weight * weight.grad).abs().detach() * len(given["label"]) / 6
            if layer := re.search(r"layer\.(\d)\.", name):
                number = int(layer[1])
                if re.search(r"query|key|value", name):
                    expected_heads[number] += felt.reshape(2, -1).sum(1)
                elif name.endswith("attention.output.dense.weight"):
                    expected_heads[number] += felt.T.reshape(2, -1).sum(1)
                elif "intermediate" in name:
                    expected_units[number] += felt.reshape(64, -1).sum(1)
                elif name.endswith("output.dense.weight"):
                    expected_units[number] += felt.sum(0)
            if name.endswith("output.dense.weight"):
                expected_dims += felt.sum(1)
            elif name != "head.bias" and not re.search(r"(query|key|value|intermediate\.dense)\.bias", name):
                expected_dims += felt.reshape(-1, 32).sum(0)
    torch.testing.assert_close(torch.stack(found.heads), expected_heads)
    torch.testing.assert_close(torch.stack(found.units), expected_units)
    torch.testing.assert_close(found.dims, expected_dims)


def test_the_model_is_left_without_gradients():
    model = encoder_classifier()
    taylor(model, [labelled(3)], cross_entropy)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
def test_what_writes_nothing_matters_nothing(kind: str):
    model = encoder_classifier(kind)
    with torch.no_grad():
        for layer in layers_of(model.encoder):
            attended, narrowed = (layer.get_submodule(name) for name in (KNOWN[kind].attended, KNOWN[kind].narrowed))
            attended.weight[:, :16] = 0  # pyright: ignore[reportIndexIssue]
            narrowed.weight[:, 5] = 0  # pyright: ignore[reportIndexIssue]
    found = magnitude(model)
    for heads_A, units_F in zip(found.heads, found.units, strict=True):
        assert heads_A[0] == 0 < heads_A[1]
        assert units_F[5] == 0 and (units_F > 0).sum() == 63


def test_heads_and_units_weigh_the_same_in_all():
    found = magnitude(encoder_classifier(layers=3))
    for parts in (found.heads, found.units):
        assert sum(float(each.sum()) for each in parts) == pytest.approx(1)
        assert len({float(each.sum()) for each in parts}) == 3  # layers differ


def test_a_teacher_that_says_the_same_is_felt_by_no_weight():
    model, given = encoder_classifier(), labelled(4)
    with torch.inference_mode():
        same = model(given["input_ids"], given["attention_mask"])
    found = taylor(model, [given | {"teacher_logits": same.clone()}], teacher_loss)
    other = taylor(model, [given | {"teacher_logits": same.clone().flip(0)}], teacher_loss)
    assert max(each.max() for each in found.heads) < 1e-4 * min(each.max() for each in other.heads)


ROWS = 40


class Stored:
    """Rows of random tokens, as `prepare` leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        chance = np.random.default_rng(0)
        offsets = np.concatenate([[0], np.cumsum(chance.integers(2, 12, ROWS))])
        ids = chance.integers(5, 60, offsets[-1]).astype(np.int32)
        self.manifest = {"rows": {"train": ROWS}}
        self._examples = Examples(ids, np.zeros(len(ids), dtype=np.int8), offsets, chance.integers(0, CLASSES, ROWS))

    def examples(self, split: str) -> Examples:
        assert split == "train"
        return self._examples


@pytest.fixture
def workplace(tmp_path: Path) -> StepContext:
    """What the importance looks at of one."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, "a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    recipe = SimpleNamespace(seed=3, output=str(tmp_path))
    return Alone(prepared=Stored(tmp_path), tokenizer=tokenizer, recipe=recipe)


def shrink_by(**fields: Any) -> ShrinkSpec:
    return ShrinkSpec.model_validate({"step": "shrink", "heads": 1} | fields)


def same(one: Importance, other: Importance) -> bool:
    return all(torch.equal(a, b) for a, b in zip([*one.heads, *one.units], [*other.heads, *other.units], strict=True))


def test_rows_are_drawn_with_the_seed_of_the_recipe(workplace: StepContext):
    model, spec = encoder_classifier(), shrink_by(loss="labels", calibration_rows=20)
    first = importance(model, spec, workplace)
    assert same(first, importance(model, spec, workplace))
    workplace.recipe.seed = 4  # pyright: ignore[reportAttributeAccessIssue]
    assert not same(first, importance(model, spec, workplace))


def test_the_teacher_is_asked_for_its_stored_logits(workplace: StepContext, monkeypatch: pytest.MonkeyPatch):
    model, spec = encoder_classifier(), shrink_by()
    with pytest.raises(JobError, match=r"compression.shrink: .*teacher_outputs.*run jobs.teach, or use loss=labels"):
        importance(model, spec, workplace)
    logits_NC = np.random.default_rng(1).normal(size=(ROWS, CLASSES)).astype(np.float16)
    monkeypatch.setattr("jobs.training.outputs.read_logits", lambda folder, split: logits_NC)
    taught = importance(model, spec, workplace)
    assert not same(taught, importance(model, shrink_by(loss="labels"), workplace))
    logits_NC = logits_NC[1:]
    with pytest.raises(JobError, match=r"of other rows; run jobs.teach again"):
        importance(model, spec, workplace)
