"""A teacher's figures and rows that were prepared, of which a search needs no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.loader import merge
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.data.source import Sample
from jobs.measure.retention import Teacher

READINGS = {"train": [1, 1, 0, 0], "validation": [1, 1, 0, 0]}
PREPARED = Prepared(Path("prepared"), {"key": "rows", "readings": READINGS, "left_out": {}})
TEACHER = Teacher(0.9, [0.9], Sample(1, "0"))
GOOD = {"metric": 0.9, "retention": 1.0, "p95_ms": 2.0, "megabytes": 3.0}


def changed(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(merge(recipe.model_dump(), change))
