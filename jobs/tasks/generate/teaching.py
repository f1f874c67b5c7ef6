"""The teacher outputs that a decoder learns from, and the teacher's stored answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.schema.distillation import StoredOutputs
from configs.schema.recipe import Recipe
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.models.reference import read_tokenizer
from jobs.training.outputs import read_answers


def wanted(recipe: Recipe, _: Any = None) -> StoredOutputs:
    """The teacher's likeliest tokens at each place, some draws from the others, and its own validation texts."""
    spec = recipe.distillation
    return StoredOutputs(tokens=spec.stored_tokens, draws=spec.stored_draws, answers=True)


def stored_answers(prepared: Prepared, teacher_outputs: Path) -> list[str]:
    """The text that the teacher writes for each prepared validation row."""
    return read_tokenizer(prepared.folder / TOKENIZER).decode_batch(read_answers(teacher_outputs, "validation"))
