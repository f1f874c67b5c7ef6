"""Compress the student: the recipe's steps in their order, an exported file, and the bundle that is served.

    ray job submit --working-dir . -- python -m jobs.compress --config configs/intent.yaml

Reads <output>/student (or `bundle=<folder>` of safetensors), writes <output>/bundle.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import session, tracking
from jobs.command import Result, main
from jobs.measure.card import card
from jobs.measure.fresh import measure_candidate
from jobs.models.reference import read_reference
from jobs.prepare import output
from jobs.recipe import Recipe
from serving.bundle import Bundle, bundle_digest, with_metrics, write_bundle


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `compress`, with the bundle measured on the validation rows."""
    with tracking.run(
        "compress", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        folder = Path(output(recipe), "bundle")
        student = Path(recipe.bundle or Path(output(recipe), "student"))
        compress(recipe, student, folder, {"run_id": run.id})
        metrics = measure_candidate(recipe, folder)
        with_metrics(folder, metrics, functools.partial(card, recipe=recipe))
        run.metrics.log(metrics)
        run.artifact(folder, "bundle")
    return Result("compress", run.id, output(recipe), metrics, bundle=str(folder))


def compress(recipe: Recipe, student: Path, folder: Path, provenance: Mapping[str, Any]) -> Bundle:
    """Make `folder` the bundle of `student` after all steps of the recipe."""
    from jobs.compression import steps
    from jobs.compression.workplace import Workplace
    from jobs.models import encoder

    reference = read_reference(student, "python -m jobs.distill")
    with tempfile.TemporaryDirectory(prefix="slimcart-compress-") as between:
        workplace = Workplace(recipe, student, reference, Path(between))
        file = steps.compress(encoder.load(student), recipe.compression, workplace)
        fields = reference.model_dump(exclude={"files", "metrics", "provenance"}) | {
            "runtime": "onnxruntime",
            "model": "model.onnx",
            "provenance": {
                **provenance,
                "student": bundle_digest(student),
                "data": reference.provenance.get("data"),
                "steps": [spec.model_dump(exclude_none=True) for spec in recipe.compression],
                "facts": workplace.facts,
                "code": tracking.code_version()[1],
            },
        }

        def fill(aside: Path) -> None:
            shutil.copyfile(file, aside / "model.onnx")
            workplace.tokenizer.save(str(aside / reference.tokenizer))

        return write_bundle(folder, fields, fill)


if __name__ == "__main__":
    main(run, takes=["bundle"], tasks=["classify"])
