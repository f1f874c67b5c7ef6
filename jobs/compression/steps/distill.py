"""Further training inside a compression: the student learns on from the stored teacher outputs."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from configs.schema.compression import DistillStep
from configs.schema.recipe import Recipe
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Prepared
from jobs.layout import pool_folder
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.reference import write_reference
from jobs.models.sparsity import sparsity_facts
from jobs.training.fit import GoingOn, distill
from jobs.training.wanted import outputs_of


def distill_further(model: EncoderClassifier, spec: DistillStep, context: StepContext) -> EncoderClassifier:
    """`model` after the best of some further epochs, with the engine and the objectives of the recipe.

    The facts are the metrics of that epoch and the share of zeros. Raises `JobError` where the teacher's outputs or
    the rows are missing.
    """
    recipe = further(context.recipe, spec)
    outputs, prepared = outputs_of(recipe), _rows(context)
    between = context.output / ".work"  # workers on other nodes see this folder, too
    between.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="further-", dir=between) as folder:
        start, made = Path(folder, "start"), Path(folder, "made")
        write_reference(start, model, prepared, recipe.name, {}, {})
        metrics = distill(recipe, prepared, outputs, made, going_on=GoingOn(start, spec))
        learned = encoder.load(made)
    context.note(spec, **metrics, **sparsity_facts(learned))
    return learned


def further(recipe: Recipe, spec: DistillStep) -> Recipe:
    """`recipe` with the distillation of `spec`: objectives of its last epoch, and one learning rate for all weights."""
    last = recipe.distillation.during(recipe.distillation.epochs - 1)
    changes = {
        "epochs": spec.epochs,
        "learning_rate": spec.learning_rate,
        "head_learning_rate": spec.learning_rate,
        "final_temperature": None,
        "stages": [],
    }
    return recipe.model_copy(update={"distillation": last.model_copy(update=changes)})


def _rows(context: StepContext) -> Prepared:
    """The rows that the student learned from, with the pool."""
    prepared, pool = context.prepared, pool_folder(context.recipe)
    return prepared if pool is None else replace(prepared, pool=Prepared.open(pool))
