"""Fine-tune the teacher on the prepared rows.

    ray job submit --working-dir . -- python -m jobs.finetune --config configs/intent.yaml

Writes <output>/teacher, a reference bundle (safetensors) of the best epoch by validation metric. A teacher whose inputs
did not change is not trained again, unless again=true.
"""

from __future__ import annotations

from pathlib import Path

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.job import Way, job
from jobs.layout import teacher_folder
from jobs.models.reference import made_from
from jobs.preflight import check_models
from jobs.prepare import PREPARED, learned_rows
from jobs.stage import Stage, made
from jobs.training import fit
from serving.bundle import read_description


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the teacher."""
    if recipe.teacher.bundle:
        raise UsageError(f"teacher.bundle: {recipe.teacher.bundle}: finetune would write over it; leave it out")
    check_models(recipe)
    with job("finetune", recipe, parent) as way:
        metrics = made(way, TEACHER)
        return way.result(metrics, bundle=str(teacher_folder(recipe)))


def _key(way: Way) -> str:
    from jobs.preflight import check_possible

    check_possible(way.recipe)
    return fit.teacher_key(way.recipe, learned_rows(way))


def _make(way: Way, folder: Path, key: str) -> None:
    fit.finetune(way.recipe, learned_rows(way), way.run.id)


def _open(way: Way, folder: Path, key: str) -> dict[str, float] | None:
    """The metrics of the teacher's best epoch."""
    return read_description(folder).metrics if made_from(folder, key) else None


def _tell(way: Way, metrics: dict[str, float]) -> None:
    from jobs.measure import early

    folder = teacher_folder(way.recipe)
    way.run.tag(slimcart__data=learned_rows(way).key)
    way.run.artifact(folder, "teacher")
    way.run.metrics.log({f"best_{name}": value for name, value in metrics.items()})
    whole = metrics.get(f"validation_{way.recipe.judged_by.metric}")
    early.compare(way.recipe, learned_rows(way), folder, whole, way.run)


TEACHER = Stage("finetune", teacher_folder, _key, _open, _make, (PREPARED,), _tell)

if __name__ == "__main__":
    main(run, takes=["again"])
