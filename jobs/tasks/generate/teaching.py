"""The teacher outputs that a decoder learns from."""

from __future__ import annotations

from typing import Any

from configs.schema.distillation import StoredOutputs
from configs.schema.recipe import Recipe


def wanted(recipe: Recipe, _: Any = None) -> StoredOutputs:
    """The teacher's likeliest tokens at each place, and some draws from the others."""
    spec = recipe.distillation
    return StoredOutputs(tokens=spec.stored_tokens, draws=spec.stored_draws)
