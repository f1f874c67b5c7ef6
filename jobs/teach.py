"""Run the teacher once over the prepared rows and store what it says of them.

    ray job submit --working-dir . -- python -m jobs.teach --config configs/intent.yaml

Writes <output>/teacher_outputs, and of a pool <output>/pool_outputs; every student and every trial reads them. Done
again only when the teacher or the rows changed.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from cluster import session, tracking
from configs.folder import digest_json
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, Prepared, has_key
from jobs.finetune import teacher_folder
from jobs.models.reference import check_fits, read_reference
from jobs.prepare import output, prepare
from jobs.recipe import Recipe
from serving.bundle import bundle_digest

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None, prepared: Prepared | None = None) -> Result:
    """The job: one MLflow run around `teach`."""
    with tracking.run("teach", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent) as run:
        session.connect()
        prepared = prepared or prepare(recipe)
        run.tag(slimcart__data=prepared.key)
        started = time.monotonic()
        folder = teach(recipe, prepared)
        metrics = {"seconds": time.monotonic() - started}
        run.metrics.log(metrics)
    return Result("teach", run.id, str(folder), metrics)


def teach(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the teacher's outputs for `prepared`, made or found; those for its pool lie in `pool_outputs`."""
    teacher = teacher_folder(recipe)
    check_fits(teacher, read_reference(teacher, "python -m jobs.finetune"), prepared)
    if prepared.pool is not None:
        _teach(recipe, teacher, prepared.pool, pool_outputs(recipe))
    return _teach(recipe, teacher, prepared, Path(output(recipe), "teacher_outputs"))


def pool_outputs(recipe: Recipe) -> Path:
    """Where the teacher's outputs for the pool lie."""
    return Path(output(recipe), "pool_outputs")


def _teach(recipe: Recipe, teacher: Path, prepared: Prepared, folder: Path) -> Path:
    from jobs.training.outputs import write_outputs

    stored = recipe.distillation.stored_tokens if recipe.task == "generate" else None
    key = digest_json({"teacher": bundle_digest(teacher), "prepared": prepared.key, "stored_tokens": stored})
    if has_key(folder, MANIFEST, key):
        log.info("teacher outputs are there already, unchanged: %s", folder)
        return folder
    log.info("the teacher runs once over %s rows", prepared.manifest["rows"])
    session.check_capacity(recipe.engine)
    write_outputs(folder, teacher, prepared, key, recipe.engine.cpus_per_worker, int(recipe.engine.use_gpu), stored)
    return folder


if __name__ == "__main__":
    main(run)
