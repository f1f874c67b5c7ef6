"""The outputs that a recipe needs of its teachers, and the stored outputs that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.session import JobError
from configs.folder import FolderError, digest_json, verify
from configs.schema.distillation import StoredOutputs, WeightedTeacher
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.data.prepared import MANIFEST, Prepared
from jobs.layout import output, pool_folder, pool_outputs, teacher_folder
from jobs.versions import behaviour
from serving.bundle import bundle_digest


def outputs_of(recipe: Recipe) -> Path:
    """The folder that `teach` left. Raises `JobError` where it, or the pool's folder, is not of this recipe's rows."""
    folder = Path(output(recipe), "teacher_outputs")
    pairs = [(folder, Path(output(recipe), "prepared"))]
    if (pool := pool_folder(recipe)) is not None:
        pairs.append((pool_outputs(recipe), pool))
    for outputs, rows in pairs:
        try:
            manifest, prepared = verify(outputs, MANIFEST), Prepared.open(rows)
        except FolderError as error:
            raise JobError(f"{error}; python -m jobs.teach makes them") from None
        stored = StoredOutputs.model_validate(manifest["wanted"])
        if manifest["key"] != outputs_key(recipe, prepared, stored) or not stored.covers(wanted_of(recipe)):
            what = "rows, teachers, objectives or precision"
            raise JobError(f"{outputs}: of other {what}; python -m jobs.teach makes them again")
    return folder


def outputs_key(recipe: Recipe, prepared: Prepared, wanted: StoredOutputs) -> str:
    """Digest of the inputs of the stored outputs."""
    precision = None if wanted.completions else recipe.engine.precision  # completions are always in float32
    inputs = {"teachers": taught_by(recipe), "prepared": prepared.key, "wanted": wanted.model_dump()}
    if wanted.completions and len(prepared.tokenizer_files) > 1:
        inputs["files"] = prepared.tokenizer_files  # that stand beside the rows; earlier versions left out the template
    return digest_json(inputs | {"precision": precision} | behaviour("teach"))


def teachers(recipe: Recipe) -> list[WeightedTeacher]:
    """The recipe's own teacher, then the further ones."""
    further = [WeightedTeacher(each.bundle, each.weight) for each in recipe.distillation.further_teachers]
    return [WeightedTeacher(str(teacher_folder(recipe)), 1.0), *further]


def taught_by(recipe: Recipe) -> list[tuple[str, float]]:
    """The digest of each teacher's bundle, and its weight."""
    return [(bundle_digest(Path(folder)), weight) for folder, weight in teachers(recipe)]


def wanted_of(recipe: Recipe, config: Any = None) -> StoredOutputs:
    """The teacher's outputs that the objectives of the recipe, and those that its search may choose, need.

    `config` is the config of a teacher that is not there yet.
    """
    return named(recipe.judged_by.wanted)(recipe, config)


def teacher_config(recipe: Recipe) -> Any:
    """The transformers config of the existing teacher."""
    from jobs.models.loading import config_of

    return config_of(str(teacher_folder(recipe)), "teacher")
