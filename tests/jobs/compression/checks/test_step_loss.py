from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

from cluster.session import JobError
from configs.schema.compression import PruneSpec, StepSpec
from jobs.compression.checks.step_loss import StepLoss
from jobs.compression.export.ctranslate2 import export
from jobs.compression.step_context import StepContext
from jobs.compression.steps.prune import zeroed
from jobs.data.prepared import ROWS
from jobs.models.encoder import EncoderClassifier
from tests.tiny.models import decoder, encoder_classifier
from tests.tiny.workplace import completed, examples, labelled, workplace


class Train(StepSpec):
    trains: ClassVar[bool] = True
    step: Literal["train"] = "train"


MILD, HARSH = (PruneSpec(step="prune", name=name) for name in ("mild", "harsh"))


@pytest.fixture
def model() -> EncoderClassifier:
    return encoder_classifier(layers=1)


@pytest.fixture
def ruined(model: EncoderClassifier) -> EncoderClassifier:
    """It says one class of every row."""
    other = encoder_classifier(layers=1)
    with torch.no_grad():
        other.head.bias[0] += 1e6
    return other


@pytest.fixture
def place(tmp_path: Path, model: EncoderClassifier) -> StepContext:
    rows = labelled(examples(60), model)
    made = workplace(tmp_path, model, rows, rows, budget={"min_retention": 0.9})
    made.judged = True
    return made


def test_every_step_is_measured(place: StepContext, model: EncoderClassifier):
    judge = StepLoss(model, [MILD, Train()], place)
    judge.after(0, model)
    judge.after(1, model)
    assert place.facts == {name: {"before": 1, "after": 1, "rows": 60} for name in ("mild", "train")}


def test_a_step_that_loses_more_than_the_limit_ends_the_job_in_one_line(
    place: StepContext, model: EncoderClassifier, ruined: EncoderClassifier
):
    judge = StepLoss(model, [MILD, HARSH], place)
    judge.after(0, model)
    with pytest.raises(JobError, match=r"^compression\[1\]: 'harsh' lowers validation accuracy from 1 to 0\.") as no:
        judge.after(1, ruined)
    assert "may lose 10.00%" in str(no.value) and "\n" not in str(no.value)
    assert place.facts["harsh"]["after"] < 0.9


def test_a_step_may_be_allowed_to_lose_anything(
    place: StepContext, model: EncoderClassifier, ruined: EncoderClassifier
):
    judge = StepLoss(model, [HARSH.model_copy(update={"max_loss": 1.0}), MILD], place)
    judge.after(0, ruined)
    judge.after(1, ruined)  # loses nothing more
    assert place.facts["mild"]["before"] == place.facts["mild"]["after"] < 0.9


def test_what_a_later_step_wins_back_is_not_lost(
    place: StepContext, model: EncoderClassifier, ruined: EncoderClassifier
):
    judge = StepLoss(model, [HARSH, Train()], place)
    judge.after(0, ruined)
    judge.after(1, model)
    assert place.facts["harsh"]["after"] < place.facts["train"]["after"] == 1


def test_what_training_does_not_win_back_is_lost(
    place: StepContext, model: EncoderClassifier, ruined: EncoderClassifier
):
    judge = StepLoss(model, [HARSH, Train()], place)
    judge.after(0, ruined)
    with pytest.raises(JobError, match=r"^compression\[1\]: 'train' lowers validation accuracy from 1 to"):
        judge.after(1, ruined)


@pytest.mark.parametrize("task", ["classify", "generate"])
def test_a_limit_that_there_are_no_rows_for_ends_the_job(place: StepContext, model: EncoderClassifier, task: str):
    place.recipe = place.recipe.model_copy(update={"output": str(place.folder), "task": task})
    with pytest.raises(JobError, match=r"needs the rows .*run jobs\.prepare, or set no limit .*min_retention=0"):
        StepLoss(model, [MILD], place)
    without = [MILD.model_copy(update={"max_loss": 1.0})]
    StepLoss(model, without, place).after(0, model)
    assert place.facts == {"mild": {"measured": "no: there are no prepared validation rows of this student"}}


def test_damaged_rows_are_not_taken_for_none(place: StepContext, model: EncoderClassifier):
    file = place.output / "prepared" / ROWS / "train.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(JobError, match=r"train\.parquet"):
        StepLoss(model, [MILD], place)


def test_a_decoder_is_judged_by_the_tokens_that_it_would_choose(tmp_path: Path):
    model = decoder("llama")
    rows = completed(model, 30)
    place = workplace(tmp_path, model, rows, rows, task="generate", compression=[{"step": "export"}])
    place.judged = True
    judge = StepLoss(model, [MILD, HARSH, MILD], place)
    judge.after(0, model)
    assert place.facts["mild"] == {"before": 1, "after": 1, "rows": 30}
    export(model, tmp_path / "0", place)
    judge.after(2, tmp_path / "0")
    assert place.facts["mild"] == {"before": 1, "after": pytest.approx(1, abs=0.01), "rows": 30}
    with pytest.raises(JobError, match=r"'harsh' lowers validation token accuracy from 1 to 0\.\d+ \(30 rows\)"):
        judge.after(1, zeroed(model, PruneSpec(step="prune", sparsity=0.9), 0))


def test_a_trial_is_judged_by_its_file_alone(place: StepContext, model: EncoderClassifier, ruined: EncoderClassifier):
    place.judged = False
    StepLoss(model, [HARSH], place).after(0, ruined)
    assert place.facts == {}


@pytest.mark.parametrize(("retention", "allowed"), [(0.99, 0.01), (0, 1), (1.2, 0)])
def test_a_step_may_lose_what_the_budget_does_not_keep(place: StepContext, retention: float, allowed: float):
    budget = place.recipe.budget.model_copy(update={"min_retention": retention})
    place.recipe = place.recipe.model_copy(update={"budget": budget})
    assert place.max_loss(MILD) == pytest.approx(allowed)
    assert place.max_loss(MILD.model_copy(update={"max_loss": 0.3})) == 0.3
