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
from typing import Any

from cluster import session, tracking
from cluster.session import JobError
from configs.folder import FolderError, digest_json, verify
from configs.loader import UsageError
from configs.schema.distillation import INSIDE, Taught, Wanted
from configs.schema.models import NEW, StudentSpec
from configs.schema.recipe import Recipe, SearchRecipe
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, Prepared, has_key
from jobs.finetune import teacher_folder
from jobs.models.reference import check_fits, read_reference
from jobs.prepare import output, pool_folder, prepare
from jobs.versions import behaviour
from serving.bundle import bundle_digest

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None, prepared: Prepared | None = None) -> Result:
    """The job: one MLflow run around `teach`."""
    with tracking.run("teach", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent) as run:
        session.connect()
        prepared = lessons(recipe, prepared or prepare(recipe))
        run.tag(slimcart__data=prepared.key)
        started = time.monotonic()
        teach(recipe, prepared)
        metrics = {"seconds": time.monotonic() - started}
        run.metrics.log(metrics)
    return Result("teach", run.id, output(recipe), metrics)


def lessons(recipe: Recipe, prepared: Prepared) -> Prepared:
    """The rows that students learn from: those prepared, or as the teacher completes them, in <output>/completions."""
    if recipe.distillation.targets == "rows":
        return prepared
    _check_teachers(recipe, prepared)
    return Prepared.open(_ask(recipe, prepared, Path(output(recipe), "completions"), Wanted(completions=True)))


def teach(recipe: Recipe, prepared: Prepared) -> Path:
    """The folder of the teachers' outputs for `prepared`, made or found; those for its pool lie in `pool_outputs`."""
    _check_teachers(recipe, prepared)
    wanted = wanted_of(recipe)
    if prepared.pool is not None:
        _ask(recipe, prepared.pool, pool_outputs(recipe), wanted)
    return _ask(recipe, prepared, Path(output(recipe), "teacher_outputs"), wanted)


def outputs_of(recipe: Recipe) -> Path:
    """The folder that `teach` left. Raises `JobError` where it, or that of the pool, is not of this recipe's rows."""
    folder = Path(output(recipe), "teacher_outputs")
    given = [(folder, Path(output(recipe), "prepared"))]
    if (pool := pool_folder(recipe)) is not None:
        given.append((pool_outputs(recipe), pool))
    for outputs, rows in given:
        try:
            manifest, prepared = verify(outputs, MANIFEST), Prepared.open(rows)
        except FolderError as error:
            raise JobError(f"{error}; python -m jobs.teach makes them") from None
        stored = Wanted.model_validate(manifest["wanted"])
        if manifest["key"] != outputs_key(recipe, prepared, stored) or not stored.covers(wanted_of(recipe)):
            what = "rows, teachers, objectives or precision"
            raise JobError(f"{outputs}: of other {what}; python -m jobs.teach makes them again")
    return folder


def _check_teachers(recipe: Recipe, prepared: Prepared) -> None:
    for folder, _ in teachers(recipe):
        check_fits(Path(folder), read_reference(Path(folder), "python -m jobs.finetune"), prepared)


def pool_outputs(recipe: Recipe) -> Path:
    """Where the teachers' outputs for the pool lie."""
    return Path(output(recipe), "pool_outputs")


def _ask(recipe: Recipe, prepared: Prepared, folder: Path, wanted: Wanted) -> Path:
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


def outputs_key(recipe: Recipe, prepared: Prepared, wanted: Wanted) -> str:
    """Digest of what the stored outputs depend on."""
    precision = None if wanted.completions else recipe.engine.precision  # completions are always in float32
    told = {"teachers": taught_by(recipe), "prepared": prepared.key, "wanted": wanted.model_dump()}
    return digest_json(told | {"precision": precision} | behaviour("teach"))


def teachers(recipe: Recipe) -> list[Taught]:
    """The recipe's own teacher, then the further ones."""
    further = [Taught(each.bundle, each.weight) for each in recipe.distillation.further_teachers]
    return [Taught(str(teacher_folder(recipe)), 1.0), *further]


def taught_by(recipe: Recipe) -> list[tuple[str, float]]:
    """What a student's teachers are: the digest of each one's bundle, and its weight."""
    return [(bundle_digest(Path(folder)), weight) for folder, weight in teachers(recipe)]


def check_possible(recipe: Recipe) -> None:
    """Refuse, before a teacher is trained, a student that it cannot have and objectives that it cannot serve.

    Of a search every choice of `student.layers` is tried, and no size, as those go with one another.
    """
    from jobs.models.student import check_student

    config = _config_to_be(recipe)
    for student in _students(recipe):
        check_student(config, student)
    wanted_of(recipe, config)


def _students(recipe: Recipe) -> list[StudentSpec]:
    """Those to be trained, as far as they are known."""
    space, own = recipe.search.space, recipe.student
    if not isinstance(recipe, SearchRecipe) and (own == StudentSpec() or "student.layers" in space):
        return []  # of a verb that does not search; what says nothing of a student may be about a teacher alone
    students = [own]
    if "student.layers" in space:
        students = [recipe.at({"student.layers": choice}).student for choice in space["student.layers"].probes()]
    if "student.kind" in space:
        return []
    sizes = ("hidden", "heads", "feed_forward")
    if any(f"student.{name}" in space for name in sizes):
        return [each.model_copy(update=dict.fromkeys(sizes)) for each in students]
    return students


def _config_to_be(recipe: Recipe) -> Any:
    """The config of the teacher, that is there or will be trained."""
    from jobs.models.decoder import new_config
    from jobs.models.encoder import config_of

    spec = recipe.teacher
    if spec.bundle is None and spec.model.startswith(NEW):
        return new_config(spec.model.removeprefix(NEW), spec.new, spec.new.vocabulary, recipe.data.max_length, 0)
    return config_of(spec.model) if spec.bundle is None else config_of(spec.bundle, "teacher.bundle")


def wanted_of(recipe: Recipe, config: Any = None) -> Wanted:
    """What the recipe's objectives need of the teacher, and those that its search may choose.

    `config` is the teacher's, of one that is not there yet.
    """
    spec = recipe.distillation
    if recipe.task == "generate":
        return Wanted(tokens=spec.stored_tokens, draws=spec.stored_draws)
    inside = set(spec.inside) | {
        key.rpartition(".")[2] for key in recipe.search.space if key.startswith("distillation.weights.")
    }
    wanted = inside.intersection(INSIDE)
    if not wanted:
        return Wanted()
    from jobs.models.inside import place, projection_names

    config = config or _teacher_config(recipe)
    count, width = config.num_hidden_layers, recipe.student.hidden or config.hidden_size
    if "relations" in wanted:
        projection_names(config.model_type)
    if "relations" in wanted and (config.hidden_size % spec.relation_heads or width % spec.relation_heads):
        raise UsageError(
            f"distillation.relation_heads: {spec.relation_heads}: does not divide the widths of teacher and student, "
            f"{config.hidden_size} and {width}"
        )
    return Wanted(
        hidden_layers=sorted({place(layer, count, "hidden_layers") for layer in spec.vectors_of(wanted)}),
        relation_layer=place(spec.relation_layer, count, "relation_layer") if "relations" in wanted else None,
    )


def _check_room(wanted: Wanted, recipe: Recipe, prepared: Prepared) -> None:
    """Say what vectors will take before they are computed; raise `JobError` where the disk has no such room."""
    vectors = len(wanted.hidden_layers) + 3 * (wanted.relation_layer is not None)
    if not vectors:
        return
    tokens = int(prepared.examples("train").lengths.sum())
    width = _teacher_config(recipe).hidden_size
    needed, free = 2 * tokens * vectors * width, shutil.disk_usage(prepared.folder).free
    words = f"{tokens} tokens x {vectors} vectors x {width} x 2 bytes = {needed / 1e6:.0f} MB"
    if needed > free:
        raise JobError(f"teacher outputs: {words}, but {prepared.folder} has room for {free / 1e6:.0f} MB")
    log.info("what objectives compare inside the teacher is stored too: %s", words)


def _teacher_config(recipe: Recipe) -> Any:
    from jobs.models.encoder import config_of

    return config_of(str(teacher_folder(recipe)), "teacher")


if __name__ == "__main__":
    main(run)
