"""Distil the teacher into a smaller student from the teacher's stored outputs.

    ray job submit --working-dir . -- python -m jobs.distill --config configs/intent.yaml student.layers=2

Writes <output>/student, a reference bundle (safetensors) of the best epoch by validation metric. A student whose inputs
did not change is not trained again, unless again=true.
"""

from __future__ import annotations

from pathlib import Path

from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.preparation import prepare_student
from jobs.data.prepared import Prepared
from jobs.job import Way, job
from jobs.layout import student_folder
from jobs.models.reference import made_from
from jobs.preflight import check_models
from jobs.prepare import PREPARED
from jobs.stage import Stage, made
from jobs.teach import TAUGHT, rows_to_learn
from jobs.training import fit
from serving.bundle import read_description


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the student."""
    check_models(recipe)
    with job("distill", recipe, parent) as way:
        metrics = made(way, STUDENT)
        return way.result(metrics, bundle=str(student_folder(recipe)))


def _rows(way: Way) -> Prepared:
    """The rows to learn from in the student's own tokens."""
    return way.once("rows of the student", lambda: prepare_student(way.recipe, rows_to_learn(way)))


def _make(way: Way, folder: Path, key: str) -> None:
    fit.distill(way.recipe, _rows(way), made(way, TAUGHT), folder, way.run.id)


def _open(way: Way, folder: Path, key: str) -> dict[str, float] | None:
    """The metrics of the student's best epoch."""
    return read_description(folder).metrics if made_from(folder, key) else None


def _tell(way: Way, metrics: dict[str, float]) -> None:
    way.run.tag(slimcart__data=rows_to_learn(way).key)
    way.run.artifact(student_folder(way.recipe), "student")
    way.run.metrics.log({f"best_{name}": value for name, value in metrics.items()})


STUDENT = Stage(
    "distill",
    student_folder,
    key=lambda way: fit.student_key(way.recipe, _rows(way)),
    open=_open,
    make=_make,
    needs=(PREPARED, TAUGHT),
    tell=_tell,
)

if __name__ == "__main__":
    main(run, takes=["again"])
