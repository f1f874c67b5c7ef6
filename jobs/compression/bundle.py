"""The bundle of a student after all steps of a recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import version
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.runtimes import export_targets
from configs.schema.tasks import named
from jobs.data.snapshot import Snapshot
from jobs.models.reference import read_reference
from serving.bundle import Bundle, bundle_digest


def compress(
    recipe: Recipe,
    student: Path,
    folder: Path,
    provenance: Mapping[str, Any],
    judged: bool = False,
    snapshot: Snapshot | None = None,
) -> Bundle:
    """Make `folder` the bundle of `student` after all steps of the recipe; `snapshot`: the validation rows.

    A step that loses too much raises `JobError` if `judged`; the trials of a search are measured whole instead.
    """
    from jobs.compression import apply
    from jobs.compression.checks.selection import choose, installed, write
    from jobs.compression.step_context import StepContext

    possible = installed(export_targets(recipe.export, recipe.task, recipe.compression))
    reference = read_reference(student, "python -m jobs.distill")
    if reference.task != recipe.task:
        raise UsageError(f"task: {recipe.task!r}: {student} is for task {reference.task!r}")
    load = named(recipe.judged_by.load)
    with tempfile.TemporaryDirectory(prefix="slimcart-compress-") as between:
        context = StepContext(recipe, student, reference, Path(between), judged, snapshot)
        runtimes = list(dict.fromkeys(form.runtime for form in possible))
        compressed = apply.compress(load(student), recipe.compression, context, runtimes)
        fields = reference.model_dump(exclude={"files", "metrics", "provenance"})
        chosen = choose(compressed, possible, context, fields)
        fields["provenance"] = {
            **provenance,
            "student": bundle_digest(student),
            **{name: reference.provenance.get(name) for name in ("student_spec", "teacher_model")},
            "data": reference.provenance.get("data"),
            "steps": [spec.model_dump(exclude_none=True) for spec in recipe.compression],
            "facts": compressed.files[chosen.form.runtime].facts | {"forms": chosen.facts},
            "code": version.code_version()[1],
        }
        return write(folder, chosen.form, chosen.file, context, fields)
