"""Distil the teacher into a smaller student from the teacher's stored outputs.

    ray job submit --working-dir . -- python -m jobs.distill --config configs/intent.yaml student.layers=2

Writes <output>/student, a reference bundle (safetensors) of the best epoch by validation metric.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster import launch, session, tracking
from configs.folder import digest_json
from configs.schema.compression import DistillStep
from configs.schema.engine import RECOVERY
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import Prepared
from jobs.finetune import TRAIN_LOOP, teacher_folder, weights_key
from jobs.models.reference import read_reference
from jobs.prepare import output, prepare, prepare_student
from jobs.teach import lessons, pool_outputs, taught_by, teach
from jobs.versions import behaviour


class GoingOn(NamedTuple):
    """A model that learns further."""

    start: Path  # its reference bundle
    step: DistillStep  # what holds meanwhile


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `distill`."""
    with tracking.run(
        "distill", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        prepared = lessons(recipe, prepare(recipe))
        run.tag(slimcart__data=prepared.key)
        outputs = teach(recipe, prepared)
        folder = Path(output(recipe), "student")
        metrics = distill(recipe, prepare_student(recipe, prepared), outputs, folder, run.id)
        run.artifact(folder, "student")
        run.metrics.log({f"best_{name}": value for name, value in metrics.items()})
    return Result("distill", run.id, output(recipe), metrics, bundle=str(folder))


def distill(
    recipe: Recipe,
    prepared: Prepared,
    teacher_outputs: Path,
    folder: Path,
    run_id: str | None = None,
    going_on: GoingOn | None = None,
) -> dict[str, float]:
    """Train the student on the rows of `prepare_student` into `folder`; returns the metrics of its best epoch.

    It is the one of the recipe, new, or what is `going_on`.
    """
    session.check_capacity(recipe.engine)
    teacher = teacher_folder(recipe)
    read_reference(teacher, "python -m jobs.finetune")
    key = student_key(recipe, prepared)
    work = folder.parent / ".work"
    config = {
        "recipe": recipe.model_dump(),
        "role": "student",
        "prepared": str(prepared.folder),
        "teacher": str(teacher),
        "teacher_outputs": str(teacher_outputs),
        "pool": None if prepared.pool is None else str(prepared.pool.folder),
        "pool_outputs": None if prepared.pool is None else str(pool_outputs(recipe)),
        "target": str(folder),
        "work": str(work / f"student-{key[:16]}"),
        "key": key,
        "run_id": run_id,
    }
    if going_on is not None:
        config |= {"start": str(going_on.start), "step": going_on.step.model_dump()}
    return launch.fit(TRAIN_LOOP, config, recipe.engine, work / "ray")


def student_key(recipe: Recipe, prepared: Prepared) -> str:
    """Digest of what the student depends on."""
    return digest_json(
        {
            "prepared": prepared.key,
            "pool": None if prepared.pool is None else prepared.pool.key,
            "teachers": taught_by(recipe),
            "student": recipe.student.model_dump(),
            "distillation": recipe.distillation.model_dump(exclude={"further_teachers"}),
            "engine": recipe.engine.model_dump(exclude=RECOVERY),
            "seed": recipe.seed,
            **weights_key(recipe.student.model, "student.model"),
            **behaviour("teach", "distill"),
        }
    )


if __name__ == "__main__":
    main(run)
