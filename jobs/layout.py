"""Where things lie in an output."""

from __future__ import annotations

from pathlib import Path

from configs.schema.recipe import Recipe


def output(recipe: Recipe) -> str:
    """The absolute output folder that `Recipe.on_driver` settled."""
    assert recipe.output is not None
    return recipe.output


def prepared_folder(recipe: Recipe) -> Path:
    """Where the training and validation rows lie as tokens."""
    return Path(output(recipe), "prepared")


def student_rows_folder(recipe: Recipe) -> Path:
    """Where they lie in the tokens of a student with a tokenizer of its own."""
    return Path(output(recipe), "prepared_student")


def pool_folder(recipe: Recipe) -> Path | None:
    """Where the rows without labels lie, if the recipe has any."""
    return Path(output(recipe), "pool") if recipe.has_pool else None


def teacher_folder(recipe: Recipe) -> Path:
    """Where the teacher lies: `teacher.bundle`, else <output>/teacher."""
    return Path(recipe.teacher.bundle or Path(output(recipe), "teacher"))


def outputs_folder(recipe: Recipe) -> Path:
    """Where the teachers' outputs for the prepared rows lie."""
    return Path(output(recipe), "teacher_outputs")


def student_folder(recipe: Recipe) -> Path:
    """Where the student lies."""
    return Path(output(recipe), "student")


def bundle_folder(recipe: Recipe) -> Path:
    """Where the exported bundle lies."""
    return Path(output(recipe), "bundle")


def reply_folder(recipe: Recipe) -> Path:
    """Where the bundle that replies lies."""
    return Path(output(recipe), "reply")


def served_folder(recipe: Recipe) -> Path:
    """Where the bundle lies that is evaluated and goes into service."""
    return bundle_folder(recipe) if recipe.reply.column is None else reply_folder(recipe)


def scores_folder(recipe: Recipe) -> Path:
    """Where the answers to the rows of a file lie: `score.output`, else <output>/scores."""
    return Path(recipe.score.output or Path(output(recipe), "scores"))


def search_folder(recipe: Recipe) -> Path:
    """Where the record of a search lies."""
    return Path(output(recipe), "search")


def report_file(recipe: Recipe) -> Path:
    """The page of a search."""
    return Path(output(recipe), "report.html")


def evaluation_folder(recipe: Recipe) -> Path:
    """Where the final evaluation lies."""
    return Path(output(recipe), "evaluation")


def cascade_folder(recipe: Recipe) -> Path:
    """Where two bundles as one lie."""
    return Path(output(recipe), "cascade")


def pool_outputs(recipe: Recipe) -> Path:
    """Where the teachers' outputs for the pool lie."""
    return Path(output(recipe), "pool_outputs")
