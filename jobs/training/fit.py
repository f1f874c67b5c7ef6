"""Train a teacher or a student: the config of the worker group, and the key of the result."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster import launch, session
from configs.folder import digest_file, digest_json
from configs.loader import UsageError
from configs.schema.compression import DistillStep
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.layout import output, pool_outputs, teacher_folder
from jobs.models.reference import read_reference
from jobs.training.wanted import taught_by
from jobs.versions import behaviour

TRAIN_LOOP = "jobs.training.loop:train_loop"
READ = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")  # files of weights


def finetune(recipe: Recipe, prepared: Prepared, run_id: str | None = None) -> dict[str, float]:
    """Train the teacher into <output>/teacher; returns the metrics of its best epoch."""
    if recipe.teacher.bundle:
        raise UsageError(f"teacher.bundle: {recipe.teacher.bundle}: finetune would write over it; leave it out")
    session.check_capacity(recipe.engine)
    folder, key = teacher_folder(recipe), teacher_key(recipe, prepared)
    config = {
        "recipe": recipe.model_dump(),
        "role": "teacher",
        "prepared": str(prepared.folder),
        "target": str(folder),
        "work": str(Path(output(recipe), ".work", f"teacher-{key[:16]}")),
        "key": key,
        "run_id": run_id,
    }
    return launch.fit(TRAIN_LOOP, config, recipe.engine, Path(output(recipe), ".work", "ray"))


def teacher_key(recipe: Recipe, prepared: Prepared) -> str:
    """Digest of what the teacher depends on."""
    parts = {"prepared": prepared.key, "teacher": recipe.teacher.keyed()}
    parts |= {"engine": recipe.engine.keyed(), "seed": recipe.seed}
    return digest_json(parts | weights_key(recipe.teacher.model, "teacher.model") | behaviour("finetune"))


def weights_key(model: str | None, field: str) -> dict[str, str]:
    """The part of a key for the weights that `field` names: a digest of a folder or package.

    Every file that transformers reads is digested, about a second for a gigabyte. New models have no part, nor
    Hub ids unless the environment names them.
    """
    from jobs.models.files import locate
    from jobs.models.pooling import pooling_field, pooling_files

    if model is None or model.startswith(NEW):
        return {}
    if not (folder := Path(found := locate(model, field))).is_dir():
        return {"model": digest_json(found)} if found != model else {}
    files = {file for pattern in READ for file in folder.glob(pattern)}
    files |= set(pooling_files(folder, pooling_field(field)))
    return {"weights": digest_json({file.relative_to(folder).as_posix(): digest_file(file) for file in sorted(files)})}


class GoingOn(NamedTuple):
    """A model that learns further."""

    start: Path  # its reference bundle
    step: DistillStep  # the step of a compression that trains it


def distill(
    recipe: Recipe,
    prepared: Prepared,
    teacher_outputs: Path,
    folder: Path,
    run_id: str | None = None,
    going_on: GoingOn | None = None,
) -> dict[str, float]:
    """Train the student on the rows of `prepare_student` into `folder`; returns the metrics of its best epoch.

    The student is a new one of the recipe, or the model that is `going_on`.
    """
    session.check_capacity(recipe.engine)
    teacher = teacher_folder(recipe)
    read_reference(teacher, "python -m jobs.finetune")
    key = student_key(recipe, prepared)
    work = folder.parent / ".work"
    config = {
        "recipe": recipe.model_dump(),
        "role": "student",
        "prepared": str(prepared.folder),
        "teacher": str(teacher),
        "teacher_outputs": str(teacher_outputs),
        "pool": None if prepared.pool is None else str(prepared.pool.folder),
        "pool_outputs": None if prepared.pool is None else str(pool_outputs(recipe)),
        "target": str(folder),
        "work": str(work / f"student-{key[:16]}"),
        "key": key,
        "run_id": run_id,
    }
    if going_on is not None:
        config |= {"start": str(going_on.start), "step": going_on.step.model_dump()}
    return launch.fit(TRAIN_LOOP, config, recipe.engine, work / "ray")


def student_key(recipe: Recipe, prepared: Prepared) -> str:
    """Digest of the student's inputs."""
    return digest_json(
        {
            "prepared": prepared.key,
            "pool": None if prepared.pool is None else prepared.pool.key,
            "teachers": taught_by(recipe),
            "student": recipe.student.keyed(),
            "distillation": recipe.distillation.keyed(),
            "engine": recipe.engine.keyed(),
            "seed": recipe.seed,
            **weights_key(recipe.student.model, "student.model"),
            **behaviour("teach", "distill"),
        }
    )
