"""Run the teacher once over the prepared rows and store what it says of them.

    ray job submit --working-dir . -- python -m jobs.teach --config configs/intent.yaml

Writes <output>/teacher_outputs, and of a pool <output>/pool_outputs; every student and every trial reads them. Done
again only when a teacher, the rows or what the objectives need changed; interrupted, it goes on with the parts that are
there.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from cluster import session, tracking
from cluster.session import JobError
from configs.folder import FolderError, verify
from configs.schema.distillation import StoredOutputs
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, Prepared, has_key
from jobs.layout import output, pool_outputs
from jobs.models.reference import check_fits, read_reference
from jobs.prepare import prepare
from jobs.training.wanted import outputs_key, teacher_config, teachers, wanted_of

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None, prepared: Prepared | None = None) -> Result:
    """The job: one MLflow run around `teach`."""
    with tracking.run("teach", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent) as run:
        session.connect()
        prepared = training_rows(recipe, prepared or prepare(recipe))
        run.tag(slimcart__data=prepared.key)
        started = time.monotonic()
        teach(recipe, prepared)
        metrics = {"seconds": time.monotonic() - started}
        run.metrics.log(metrics)
    return Result("teach", run.id, output(recipe), metrics)


def training_rows(recipe: Recipe, prepared: Prepared) -> Prepared:
    """The rows that students learn from: those prepared, or as the teacher completes them, in <output>/completions."""
    if recipe.distillation.targets == "rows":
        return prepared
    _check_teachers(recipe, prepared)
    return Prepared.open(_ask(recipe, prepared, Path(output(recipe), "completions"), StoredOutputs(completions=True)))


def teach(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the teachers' outputs for `prepared`, made or found; those for its pool lie in `pool_outputs`."""
    _check_teachers(recipe, prepared)
    wanted = wanted_of(recipe)
    if prepared.pool is not None:
        _ask(recipe, prepared.pool, pool_outputs(recipe), wanted)
    return _ask(recipe, prepared, Path(output(recipe), "teacher_outputs"), wanted)


def _check_teachers(recipe: Recipe, prepared: Prepared) -> None:
    for folder, _ in teachers(recipe):
        check_fits(Path(folder), read_reference(Path(folder), "python -m jobs.finetune"), prepared)


def _ask(recipe: Recipe, prepared: Prepared, folder: Path, wanted: StoredOutputs) -> Path:
    """Let the teachers make `folder`, or find it made; two jobs at once make it once."""
    from filelock import FileLock

    from jobs.training.teaching import write_outputs

    key = outputs_key(recipe, prepared, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if has_key(folder, MANIFEST, key):
            try:
                verify(folder, MANIFEST)
            except FolderError as error:
                log.warning("%s is made again: %s", folder.name, error)
            else:
                log.info("%s is there already, unchanged: %s", folder.name, folder)
                return folder
        log.info("the teacher runs once over %s rows", prepared.manifest["rows"])
        _check_room(wanted, recipe, prepared)
        engine = recipe.engine
        session.check_capacity(engine)
        write_outputs(folder, teachers(recipe), prepared, key, wanted, engine)
    return folder


def _check_room(wanted: StoredOutputs, recipe: Recipe, prepared: Prepared) -> None:
    """Say what vectors will take before they are computed; raise `JobError` where the disk has no such room."""
    vectors = len(wanted.hidden_layers) + 3 * (wanted.relation_layer is not None)
    if not vectors:
        return
    tokens = int(prepared.examples("train").lengths.sum())
    width = teacher_config(recipe).hidden_size
    needed, free = 2 * tokens * vectors * width, shutil.disk_usage(prepared.folder).free
    words = f"{tokens} tokens x {vectors} vectors x {width} x 2 bytes = {needed / 1e6:.0f} MB"
    if needed > free:
        raise JobError(f"teacher outputs: {words}, but {prepared.folder} has room for {free / 1e6:.0f} MB")
    log.info("what objectives compare inside the teacher is stored too: %s", words)


if __name__ == "__main__":
    main(run)
