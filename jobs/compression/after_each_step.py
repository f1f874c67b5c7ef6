"""Bundles after each step of a compression: the winner's steps once more on its student, exported after every one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from cluster import session
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.compression import ExportStep, Step
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.measure.contenders import Contender
from serving.bundle import Bundle, bundle_digest

log = logging.getLogger(__name__)


def after_each_step(recipe: Recipe, winner: Bundle, student: Path, folder: Path) -> list[Contender]:
    """Bundles below `folder`: `student` exported, and exported after each step of `winner` but the last.

    There are none where the winner was made of another student. They are timed at the budget's shape alone, and need
    not answer as the model does, since they are measured. A bundle that cannot be made again is left out.
    """
    origin = winner.provenance
    if "steps" not in origin or origin.get("student") != bundle_digest(student):
        log.info("the steps are not measured: the bundle was made of another student than the one in %s", student)
        return []
    values = {name: value for name, value in origin.get("values", {}).items() if not name.startswith("compression.")}
    chosen = {"runtime": winner.runtime, "precision": winner.precision, "parity": 0.0}  # agreement is not checked again
    export = recipe.export.model_copy(update=chosen)
    recipe = recipe.at(values).model_copy(update={"export": export})
    session.connect()  # a step may train
    contenders = []
    for steps in exported_prefixes(TypeAdapter(list[Step]).validate_python(origin["steps"])):
        last = next((each for each in reversed(steps) if not isinstance(each, ExportStep)), None)
        name = f"step_{last.title if last else 'export'}"
        log.info("making %s", name)
        try:
            compress(recipe.model_copy(update={"compression": steps}), student, folder / name, {})
        except (JobError, UsageError) as error:
            log.warning("%s is left out: %s", name, error)
            continue
        contenders.append(
            Contender(name=name, kind="bundle", folder=str(folder / name), shapes=[recipe.judged_by.shape])
        )
    return contenders


def exported_prefixes(steps: Sequence[Step]) -> list[list[Step]]:
    """The first 0, 1, 2, ... steps, but not all, each time with the export that makes a file of them."""
    split = next(index for index, each in enumerate(steps) if isinstance(each, ExportStep))
    before = [[*steps[:count], steps[split]] for count in range(split + 1)]
    after = [list(steps[:count]) for count in range(split + 2, len(steps) + 1)]
    return [*before, *after][:-1]
