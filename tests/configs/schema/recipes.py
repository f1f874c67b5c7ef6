"""Recipes of few fields, and why one is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.recipe import Recipe

EXPORT = {"step": "export"}
PRUNE = {"step": "prune"}
DISTILL = {"step": "distill"}
QUANTIZE = {"step": "quantize"}
STEPS = [PRUNE, EXPORT, QUANTIZE]


def recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate({"name": "intent", **fields})


def refusal(kind: type[Recipe] = Recipe, **fields: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"name": "intent", **fields})
    (error,) = refused.value.errors()
    return error["msg"].removeprefix("Value error, ")
