"""Where things lie in an output."""

from __future__ import annotations

from pathlib import Path

from configs.schema.recipe import Recipe


def output(recipe: Recipe) -> str:
    """The absolute output folder that `Recipe.on_driver` settled."""
    assert recipe.output is not None
    return recipe.output


def pool_folder(recipe: Recipe) -> Path | None:
    """Where the rows without labels lie, if the recipe has any."""
    return Path(output(recipe), "pool") if recipe.has_pool else None


def teacher_folder(recipe: Recipe) -> Path:
    """Where the teacher lies: `teacher.bundle`, else <output>/teacher."""
    return Path(recipe.teacher.bundle or Path(output(recipe), "teacher"))


def pool_outputs(recipe: Recipe) -> Path:
    """Where the teachers' outputs for the pool lie."""
    return Path(output(recipe), "pool_outputs")
