"""Distil the teacher into a smaller student from the teacher's stored outputs.

    ray job submit --working-dir . -- python -m jobs.distill --config configs/intent.yaml student.layers=2

Writes <output>/student, a reference bundle (safetensors) of the best epoch by validation metric.
"""

from __future__ import annotations

from pathlib import Path

from cluster import session, tracking
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.layout import output
from jobs.prepare import prepare, prepare_student
from jobs.teach import teach, training_rows
from jobs.training.fit import distill


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `distill`."""
    with tracking.run(
        "distill", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        prepared = training_rows(recipe, prepare(recipe))
        run.tag(slimcart__data=prepared.key)
        outputs = teach(recipe, prepared)
        folder = Path(output(recipe), "student")
        metrics = distill(recipe, prepare_student(recipe, prepared), outputs, folder, run.id)
        run.artifact(folder, "student")
        run.metrics.log({f"best_{name}": value for name, value in metrics.items()})
    return Result("distill", run.id, output(recipe), metrics, bundle=str(folder))


if __name__ == "__main__":
    main(run)
