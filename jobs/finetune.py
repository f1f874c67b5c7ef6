"""Fine-tune the teacher on the prepared rows.

    ray job submit --working-dir . -- python -m jobs.finetune --config configs/intent.yaml

Writes <output>/teacher, a reference bundle (safetensors) of the best epoch by validation metric.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cluster import launch, session, tracking
from configs.folder import digest_file, digest_json
from configs.loader import UsageError
from configs.schema.engine import RECOVERY
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import Prepared
from jobs.prepare import output, prepare
from jobs.versions import behaviour
from serving.bundle import read_description

TRAIN_LOOP = "jobs.training.loop:train_loop"
READ = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "1_Pooling/config.json")  # of a folder of weights

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None, prepared: Prepared | None = None, *, made: bool = False) -> Result:
    """The job: one MLflow run around `finetune`; of a teacher that is `made` it tells what is left to tell."""
    from jobs.measure import early
    from jobs.teach import check_possible  # which stands on this file

    with tracking.run(
        "finetune", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        prepared = prepared or prepare(recipe)
        check_possible(recipe)
        run.tag(slimcart__data=prepared.key)
        folder = teacher_folder(recipe)
        metrics = read_description(folder).metrics if made else finetune(recipe, prepared, run.id)
        run.artifact(folder, "teacher")
        run.metrics.log({f"best_{name}": value for name, value in metrics.items()})
        early.compare(recipe, folder, metrics.get(f"validation_{recipe.judged_by.metric}"), run)
    return Result("finetune", run.id, output(recipe), metrics, bundle=str(folder))


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


def teacher_folder(recipe: Recipe) -> Path:
    """Where the teacher lies: `teacher.bundle`, else <output>/teacher."""
    return Path(recipe.teacher.bundle or Path(output(recipe), "teacher"))


def teacher_key(recipe: Recipe, prepared: Prepared) -> str:
    """Digest of what the teacher depends on."""
    engine = recipe.engine.model_dump(exclude=RECOVERY)
    teacher = recipe.teacher.model_dump(exclude={"bundle"})
    parts = {"prepared": prepared.key, "teacher": teacher, "engine": engine, "seed": recipe.seed}
    return digest_json(parts | weights_key(recipe.teacher.model, "teacher.model") | behaviour("finetune"))


def weights_key(model: str | None, field: str) -> dict[str, str]:
    """What a key holds, beside their name, of the weights that `field` names: a digest of a folder or package.

    Every file that transformers reads is digested, about a second for a gigabyte. Hub ids and new models have none.
    """
    from jobs.models.encoder import locate

    if model is None or model.startswith(NEW) or not (folder := Path(locate(model, field))).is_dir():
        return {}
    files = sorted({file for pattern in READ for file in folder.glob(pattern)})
    return {"weights": digest_json({file.relative_to(folder).as_posix(): digest_file(file) for file in files})}


if __name__ == "__main__":
    main(run)
