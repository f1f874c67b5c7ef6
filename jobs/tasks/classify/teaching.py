"""The teacher outputs that a classifier learns from, and the teacher's stored answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.loader import UsageError
from configs.schema.distillation import HIDDEN_OBJECTIVES, StoredOutputs
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.training.outputs import read_logits
from jobs.training.wanted import teacher_config


def wanted(recipe: Recipe, config: Any = None) -> StoredOutputs:
    """The teacher's outputs that the objectives of the recipe, and those that its search may choose, need.

    `config` is the config of a teacher that is not there yet. Raises `UsageError`.
    """
    spec = recipe.distillation
    inside = set(spec.hidden_objectives) | {
        key.rpartition(".")[2] for key in recipe.search.space if key.startswith("distillation.weights.")
    }
    objectives = inside.intersection(HIDDEN_OBJECTIVES)
    if not objectives:
        return StoredOutputs()
    from jobs.models.hidden_states import place, projection_names

    config = config or teacher_config(recipe)
    count, width = config.num_hidden_layers, recipe.student.hidden or config.hidden_size
    if "relations" in objectives:
        projection_names(config.model_type)
    if "relations" in objectives and (config.hidden_size % spec.relation_heads or width % spec.relation_heads):
        raise UsageError(
            f"distillation.relation_heads: {spec.relation_heads}: does not divide the widths of teacher and student, "
            f"{config.hidden_size} and {width}"
        )
    return StoredOutputs(
        hidden_layers=sorted({place(layer, count, "hidden_layers") for layer in spec.vectors_of(objectives)}),
        relation_layer=place(spec.relation_layer, count, "relation_layer") if "relations" in objectives else None,
    )


def stored_answers(prepared: Prepared, teacher_outputs: Path) -> list[str]:
    """The teacher's label for each prepared validation row."""
    return [prepared.labels[number] for number in read_logits(teacher_outputs, "validation").argmax(-1)]
