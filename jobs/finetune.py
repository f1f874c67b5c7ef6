"""Fine-tune the teacher on the prepared rows.

    ray job submit --working-dir . -- python -m jobs.finetune --config configs/intent.yaml

Writes <output>/teacher, a reference bundle (safetensors) of the best epoch by validation metric.
"""

from __future__ import annotations

import logging

from cluster import session, tracking
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.prepared import Prepared
from jobs.layout import output, teacher_folder
from jobs.prepare import prepare
from jobs.training.fit import finetune
from serving.bundle import read_description

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None, prepared: Prepared | None = None, *, made: bool = False) -> Result:
    """The job: one MLflow run around `finetune`; of a teacher that is `made` it tells what is left to tell."""
    from jobs.measure import early
    from jobs.preflight import check_possible

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


if __name__ == "__main__":
    main(run)
