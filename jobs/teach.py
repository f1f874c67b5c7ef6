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

from cluster import session
from cluster.session import JobError
from configs.folder import FolderError, only_maker, verify
from configs.schema.distillation import StoredOutputs
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, Prepared, has_key
from jobs.job import Way, job
from jobs.layout import output, outputs_folder, pool_outputs
from jobs.models.reference import check_fits, read_reference
from jobs.preflight import check_models
from jobs.prepare import PREPARED, learned_rows
from jobs.stage import Stage, made
from jobs.training.wanted import outputs_key, teacher_config, teachers, wanted_of

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around what the teachers say."""
    check_models(recipe)
    with job("teach", recipe, parent) as way:
        started = time.monotonic()
        made(way, TAUGHT)
        metrics = {"seconds": time.monotonic() - started}
        way.run.metrics.log(metrics)
        return way.result(metrics)


def rows_to_learn(way: Way) -> Prepared:
    """The rows that students of the way learn from; see `training_rows`."""
    return way.once("training rows", lambda: training_rows(way.recipe, learned_rows(way)))


def training_rows(recipe: Recipe, prepared: Prepared) -> Prepared:
    """The rows that students learn from: those prepared, or as the teacher completes them, in <output>/completions."""
    if recipe.distillation.targets == "rows":
        return prepared
    _check_teachers(recipe, prepared)
    return Prepared.open(_ask(recipe, prepared, Path(output(recipe), "completions"), StoredOutputs(completions=True)))


def _check_teachers(recipe: Recipe, prepared: Prepared) -> None:
    for folder, _ in teachers(recipe):
        check_fits(Path(folder), read_reference(Path(folder), "python -m jobs.finetune"), prepared)


def _ask(recipe: Recipe, prepared: Prepared, folder: Path, wanted: StoredOutputs) -> Path:
    """Let the teachers make `folder`, or find it made; two jobs at once make it once."""
    with only_maker(folder):
        key = outputs_key(recipe, prepared, wanted)
        if _is_there(folder, key):
            log.info("%s is there already, unchanged: %s", folder.name, folder)
        else:
            _write(recipe, prepared, folder, wanted, key)
    return folder


def _is_there(folder: Path, key: str) -> bool:
    """Whether a whole folder of this key is there."""
    if not has_key(folder, MANIFEST, key):
        return False
    try:
        verify(folder, MANIFEST)
    except FolderError as error:
        log.warning("%s is made again: %s", folder.name, error)
        return False
    return True


def _write(recipe: Recipe, prepared: Prepared, folder: Path, wanted: StoredOutputs, key: str) -> None:
    from jobs.training.teaching import write_outputs

    log.info("the teacher runs once over %s rows", prepared.manifest["rows"])
    _check_room(wanted, recipe, prepared)
    session.check_capacity(recipe.engine)
    write_outputs(folder, teachers(recipe), prepared, key, wanted, recipe.engine)


def _key(way: Way) -> str:
    rows = rows_to_learn(way)
    _check_teachers(way.recipe, rows)
    return outputs_key(way.recipe, rows, wanted_of(way.recipe))


def _open(way: Way, folder: Path, key: str) -> Path | None:
    """The folder, with that of the pool beside it, which is made where it is not there."""
    if not _is_there(folder, key):
        return None
    if (pool := rows_to_learn(way).pool) is not None:
        _ask(way.recipe, pool, pool_outputs(way.recipe), wanted_of(way.recipe))
    return folder


def _make(way: Way, folder: Path, key: str) -> None:
    _write(way.recipe, rows_to_learn(way), folder, wanted_of(way.recipe), key)


def _tell(way: Way, _: Path) -> None:
    way.run.tag(slimcart__data=rows_to_learn(way).key)


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


TAUGHT = Stage("teach", outputs_folder, _key, _open, _make, (PREPARED,), _tell)

if __name__ == "__main__":
    main(run, takes=["again"])
