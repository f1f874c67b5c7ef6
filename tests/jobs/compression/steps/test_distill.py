"""What the workers are told, and what comes of it; the training itself: tests/jobs/training/test_loop.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from cluster import launch, session
from cluster.session import JobError
from configs.folder import commit
from configs.schema.compression import DistillStep, PruneSpec
from configs.schema.distillation import StoredOutputs
from configs.schema.engine import EngineSpec
from configs.schema.recipe import Recipe
from jobs.compression.step_context import StepContext
from jobs.compression.steps.distill import distill_further, further
from jobs.compression.steps.prune import zeroed
from jobs.data.prepared import MANIFEST, TOKENIZER, Prepared
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.reference import read_reference, write_reference
from jobs.training.loop import Fit
from jobs.training.wanted import outputs_key
from tests.tiny.models import CLASSES, encoder_classifier

STEP = DistillStep(step="distill", epochs=3, learning_rate=5e-5, sparsity=0.6, name="on")


def words(*known: str) -> Tokenizer:
    return Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, known[0]))


@pytest.fixture
def workplace(tmp_path: Path) -> StepContext:
    """Beside rows, a teacher and its outputs, as far as their manifests go."""

    def fill(aside: Path) -> dict[str, Any]:
        words("a", "b").save(str(aside / TOKENIZER))
        return {"key": "rows", "labels": list("vwxyz"[:CLASSES]), "pairs": False, "max_length": 16, "task": "classify"}

    commit(tmp_path / "prepared", MANIFEST, fill)
    prepared = Prepared.open(tmp_path / "prepared")
    for name in ("teacher", "student"):
        write_reference(tmp_path / name, encoder_classifier(layers=1), prepared, name, {}, {})
    recipe = Recipe(name="tiny", output=str(tmp_path), engine=EngineSpec(cpus_per_worker=1, max_failures=0))
    manifest = {"key": outputs_key(recipe, prepared, StoredOutputs()), "wanted": StoredOutputs().model_dump()}
    commit(tmp_path / "teacher_outputs", MANIFEST, lambda aside: manifest)
    (tmp_path / "between").mkdir()
    student = tmp_path / "student"
    return StepContext(recipe, student, read_reference(student, ""), tmp_path / "between")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """What a worker group is started with; it doubles every weight."""
    seen: list[Fit] = []

    def train(train_loop: str, config: dict[str, Any], spec: EngineSpec, folder: Path) -> dict[str, float]:
        fit = Fit.model_validate(config)
        assert spec == fit.recipe.engine
        seen.append(fit)
        model = encoder.load(Path(fit.start or ""))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2)
        write_reference(Path(fit.target), model, Prepared.open(Path(fit.prepared)), "made", {}, {})
        return {"validation_accuracy": 0.9}

    monkeypatch.setattr(launch, "fit", train)
    monkeypatch.setattr(session, "check_capacity", lambda engine: None)
    return seen


def half(model: EncoderClassifier) -> Any:
    return zeroed(model, PruneSpec(step="prune", sparsity=0.5), 0)


def test_the_model_under_compression_goes_on_not_the_student_of_the_recipe(workplace: StepContext, told: list[Fit]):
    model = half(encoder_classifier(layers=2, seed=5))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    learned = distill_further(model, STEP, workplace)
    for name, weight in learned.state_dict().items():
        assert torch.equal(weight, 2 * before[name]), name
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert not learned.training


def test_workers_are_told_the_step_the_rows_and_the_engine_of_the_recipe(workplace: StepContext, told: list[Fit]):
    distill_further(encoder_classifier(layers=1), STEP, workplace)
    (fit,) = told
    assert fit.step == STEP
    assert (fit.role, fit.prepared) == ("student", str(workplace.output / "prepared"))
    assert fit.teacher_outputs == str(workplace.output / "teacher_outputs")
    assert fit.recipe.engine == workplace.recipe.engine
    assert (fit.recipe.distillation.epochs, fit.recipe.distillation.learning_rate) == (3, 5e-5)
    assert Path(fit.start or "").is_relative_to(workplace.output)  # where workers on other nodes find it


def test_the_report_states_metrics_and_zeros_and_nothing_is_left_behind(workplace: StepContext, told: list[Fit]):
    distill_further(half(encoder_classifier(layers=1)), STEP, workplace)
    assert workplace.facts["on"].keys() == {"validation_accuracy", "sparsity", "layers"}
    assert (workplace.facts["on"]["validation_accuracy"], workplace.facts["on"]["sparsity"]) == (0.9, 0.5)
    assert not list((workplace.output / ".work").iterdir())


def test_objectives_are_those_of_the_last_epoch_and_no_part_is_new_any_more():
    stages = [{"epochs": 4, "weights": {"relations": 1}}]
    given = {"epochs": 5, "stages": stages, "final_temperature": 2, "weights": {"kl": 0.7}, "label_smoothing": 0.1}
    recipe = Recipe.model_validate({"name": "tiny", "distillation": given})
    spec = further(recipe, STEP).distillation
    assert (spec.epochs, spec.learning_rate, spec.head_learning_rate) == (3, 5e-5, 5e-5)
    assert [spec.during(epoch).temperature for epoch in range(3)] == [2, 2, 2]
    assert (spec.weights.kl, spec.hidden_objectives, spec.label_smoothing) == (0.7, {}, 0.1)
    assert Recipe.model_validate(further(recipe, STEP).model_dump()).distillation == spec


def test_without_outputs_of_the_teacher_one_line_names_the_command(workplace: StepContext, told: list[Fit]):
    (workplace.output / "teacher_outputs" / MANIFEST).unlink()
    with pytest.raises(JobError, match=r"teacher_outputs.*python -m jobs\.teach makes them$"):
        distill_further(encoder_classifier(layers=1), STEP, workplace)
    assert not told
