"""Check the training and validation rows and tokenise them once.

    ray job submit --working-dir . -- python -m jobs.prepare --config configs/intent.yaml

Writes <output>/prepared: Parquet shards with lengths. Rows that did not change are not tokenised again. With
`data.unlabelled` or `distillation.pool.rows` also <output>/pool: rows without labels, for students alone; for a
`student.model` with a tokenizer of its own also <output>/prepared_student.
Texts that are in two splits or have two labels are counted and told, and so is what the tokenizer does not know. Of the
test file nothing is read here, with `data.on_leak` drop or refuse hashes of its texts.
"""

from __future__ import annotations

from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.preparation import Source, opened, prepare_student, read, summary, write
from jobs.data.prepared import Prepared
from jobs.job import Way, job
from jobs.layout import prepared_folder
from jobs.preflight import check_models, check_possible
from jobs.stage import Stage, made


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the rows that teacher and student learn from."""
    check_models(recipe)
    check_possible(recipe)
    with job("prepare", recipe, parent) as way:
        prepared = learned_rows(way)
        student_rows(way)
        return way.result(summary(prepared))


def learned_rows(way: Way) -> Prepared:
    """The prepared rows of the way, with its pool where the recipe has one."""
    return made(way, PREPARED)


def student_rows(way: Way) -> Prepared:
    """The rows for the student; see `prepare_student`."""
    return way.once("student rows", lambda: prepare_student(way.recipe, learned_rows(way)))


def _source(way: Way) -> Source:
    return way.once("rows", lambda: read(way.recipe))


def _tell(way: Way, prepared: Prepared) -> None:
    way.run.tag(slimcart__data=prepared.key)
    way.run.metrics.log(summary(prepared))


PREPARED = Stage(
    "prepare",
    prepared_folder,
    key=lambda way: _source(way).key,
    open=lambda way, folder, key: opened(way.recipe, _source(way)),
    make=lambda way, folder, key: write(way.recipe, _source(way)),
    tell=_tell,
)

if __name__ == "__main__":
    main(run, takes=["again"])
