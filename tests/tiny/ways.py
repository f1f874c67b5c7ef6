"""Stages outside a job: what they make or find, and no MLflow run that is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.job import Way
from jobs.preflight import check_models
from jobs.prepare import learned_rows
from jobs.stage import made
from jobs.teach import TAUGHT

NO_RUN = cast(Any, None)


def prepare(recipe: Recipe) -> Prepared:
    """The prepared rows of a recipe."""
    check_models(recipe)
    return learned_rows(Way(recipe, NO_RUN, "test"))


def teach(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the teachers' outputs for `prepared`; those for its pool lie in `pool_outputs`."""
    return made(Way(recipe, NO_RUN, "test", values={"prepare": prepared}), TAUGHT)
