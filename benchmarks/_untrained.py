"""Bundles of classifiers that have learned nothing, for measurements of time: their work is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks._bare import SERVICE
from benchmarks.runtimes import prepared_of
from configs.schema.data import EMBEDDED
from configs.schema.models import StudentSpec, TeacherSpec
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.models import encoder
from jobs.models.reference import write_reference
from jobs.models.student import encoder_student


def untrained(place: Path, student: StudentSpec, quantized: bool = False) -> Path:
    """The bundle of a student of the packaged MiniLM, its head as it was drawn."""
    steps: list[dict[str, Any]] = [{"step": "export"}, *([{"step": "quantize"}] if quantized else [])]
    recipe = Recipe.model_validate(
        {
            "name": SERVICE,
            "output": str(place),
            "data": {"train": EMBEDDED, "validation": EMBEDDED, "max_length": 128},
            "export": {"parity": 0},  # weights of the head are random: labels are near ties
            "compression": steps,
            "budget": {"min_retention": 0},
        }
    )
    rows = prepared_of(recipe)
    torch.manual_seed(0)
    teacher = encoder.pretrained(TeacherSpec(), rows.labels).eval()
    write_reference(place / "student", encoder_student(teacher, student).eval(), rows, SERVICE, {}, {})
    compress(recipe, place / "student", place / "bundle", {})
    return place / "bundle"
