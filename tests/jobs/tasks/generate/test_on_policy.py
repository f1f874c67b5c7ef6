"""A student's own texts: drawn as they should be, the same however the rows are shared, judged by the teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from configs.schema.recipe import Recipe
from jobs.data.batches import NO_TARGET
from jobs.data.prepared import TOKENIZER, Examples
from jobs.models import decoder as decoders
from jobs.models.decoder import Draws
from jobs.tasks.generate import on_policy
from jobs.tasks.generate.on_policy import OwnTexts
from jobs.training import loop
from jobs.training.loop import Fit
from jobs.training.loss import own_completion_loss
from tests.jobs.training.losses import divergences_by_formula, drawn
from tests.tiny.models import VOCABULARY, decoder

KNOWN, LONGEST, END = 50, 14, 3
PROMPTS = [[5, 6], [7, 8, 9], [5, 9], [10, 11]]
STUDENT, CPU = decoder("llama", seed=1), torch.device("cpu")


def recipe(**distillation: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "task": "generate",
            "teacher": {"model": "new:llama"},
            "engine": {"precision": "fp32"},
            "distillation": {"on_policy": 1.0} | distillation,
        }
    )


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows of the prompts under completions that nobody looks at, a teacher, and a worker that is alone."""
    monkeypatch.setattr(on_policy, "gather", lambda value: [value])
    decoders.save(decoder("llama", seed=2), tmp_path)
    Tokenizer(WordLevel({f"<{number}>": number for number in range(KNOWN)}, "<0>")).save(str(tmp_path / TOKENIZER))
    texts = [[*prompt, 20, 21, END] for prompt in PROMPTS]
    rows = Examples(
        ids=np.concatenate(texts).astype(np.int32),
        types=np.concatenate([np.arange(len(text)) >= len(text) - 3 for text in texts]).astype(np.int8),
        offsets=np.cumsum([0, *map(len, texts)]),
        labels=np.zeros(len(texts), np.int64),
    )
    manifest = {"end": END, "max_length": LONGEST}
    return SimpleNamespace(folder=tmp_path, manifest=manifest, examples=lambda _: rows)


def own_texts(prepared: Any, **distillation: Any) -> OwnTexts:
    return OwnTexts(prepared, recipe(**distillation), prepared.folder, CPU)


def written(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The texts of a micro-batch, each from its first token to its last target."""
    texts = []
    for ids, targets in zip(batch["input_ids"].tolist(), batch["target"].tolist(), strict=True):
        last = max((place for place, target in enumerate(targets) if target != NO_TARGET), default=-1)
        texts.append([*ids[: last + 1], *targets[last : last + 1]])
    return texts


def test_tokens_are_drawn_by_the_inverse_of_the_cumulative_distribution():
    with torch.inference_mode():
        probabilities = STUDENT(torch.tensor([[5, 6]]), torch.arange(2)[None])[0, -1, :KNOWN].double().softmax(-1)
    numbers = (np.arange(1000) + 0.5) / 1000
    prompts = [[5, 6]] * len(numbers)
    draws = Draws([np.array([each]) for each in numbers], KNOWN)
    first = decoders.complete(STUDENT, prompts, 3, VOCABULARY, draws=draws)
    counts = np.bincount([text[0] for text in first], minlength=KNOWN)
    assert np.abs(counts / 1000 - probabilities.numpy()).max() <= 1e-3  # by even numbers, not by chance
    assert [text[0] for text in first] == sorted(text[0] for text in first)


def test_a_text_depends_on_its_row_and_the_epoch_alone(prepared: Any):
    own, rows = own_texts(prepared), np.arange(4)
    (whole,), size = own.parts(STUDENT, rows, 0, 0, 1, 1)
    assert size == (whole["target"] != NO_TARGET).sum()
    shares = [own.parts(STUDENT, rows, 0, rank, 2, 2)[0] for rank in range(2)]
    texts: list[Any] = [None] * 4
    for rank in range(2):
        for part in range(2):
            texts[rank * 2 + part :: 4] = written(shares[rank][part])
    assert texts == written(whole)
    assert written(own_texts(prepared).parts(STUDENT, rows, 0, 0, 1, 1)[0][0]) == texts  # as after an interruption
    assert written(own.parts(STUDENT, rows, 1, 0, 1, 1)[0][0]) != texts
    for prompt, text in zip(PROMPTS, texts, strict=True):
        assert text[: len(prompt)] == prompt and max(text) < KNOWN
        assert text[-1] == END or len(text) == LONGEST


def test_a_worker_without_rows_takes_part_by_a_blank_one(prepared: Any):
    micro, _ = own_texts(prepared).parts(STUDENT, np.arange(1), 0, 1, 2, 1)
    assert micro[0]["weight"].tolist() == [0.0] and micro[0]["teacher_logits"].shape == (0, KNOWN)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_divergence_at_the_students_own_tokens(seed: int, prepared: Any):
    given = drawn(seed)
    (batch,), _ = own_texts(prepared).parts(STUDENT, np.arange(4), 0, 0, 1, 1)
    with torch.inference_mode():
        logits_BLV = STUDENT(batch["input_ids"], batch["position_ids"])
    found_B = own_completion_loss(logits_BLV, batch["target"], batch["teacher_logits"], given)
    teacher = decoders.load(prepared.folder)
    for row, (prompt, text) in enumerate(zip(PROMPTS, written(batch), strict=True)):
        with torch.inference_mode():  # each text alone
            places = torch.arange(len(text) - 1)[None]
            own, theirs = (
                model(torch.tensor([text[:-1]]), places)[0, len(prompt) - 1 :, :KNOWN].numpy()
                for model in (STUDENT, teacher)
            )
        expected = sum(divergences_by_formula(q, p, given) for q, p in zip(own, theirs, strict=True))
        assert found_B[row].item() == pytest.approx(expected, rel=1e-3)


def test_as_many_batches_are_chosen_as_the_share_says(prepared: Any):
    for share in (0.0, 0.3, 1.0):
        own = own_texts(prepared, on_policy=share)
        chosen = [own.chooses(epoch, number) for epoch in range(20) for number in range(50)]
        assert np.mean(chosen) == pytest.approx(share, abs=0.04)
        assert own.facts(3, 49)["on_policy_share"] == np.mean([own.chooses(3, number) for number in range(1, 50)])
        again = own_texts(prepared, on_policy=share)
        assert [again.chooses(epoch, number) for epoch in range(20) for number in range(50)] == chosen


def test_what_a_step_takes_more_is_told(prepared: Any):
    own = own_texts(prepared)
    own.parts(STUDENT, np.arange(4), 0, 0, 1, 1)
    assert own.facts(0, 1)["on_policy_seconds"] > 0


@pytest.mark.parametrize(
    ("role", "share", "there"), [("student", 0.0, False), ("teacher", 1.0, False), ("student", 1.0, True)]
)
def test_without_a_share_nothing_is_made(role: Any, share: float, there: bool, prepared: Any, tmp_path: Path):
    fit = Fit(recipe=recipe(on_policy=share), role=role, prepared="", teacher=str(tmp_path), target="", work="", key="")
    assert (loop._own_texts(fit, prepared, CPU) is not None) == there
