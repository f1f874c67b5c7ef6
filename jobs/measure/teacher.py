"""The teacher's metric on rows: from its stored outputs where they are of these rows, else it answers them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from cluster.session import JobError
from configs.folder import FolderError
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.data.snapshot import Snapshot
from jobs.data.source import Row, sample
from jobs.layout import output, teacher_folder
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measurement, measure
from jobs.measure.retention import taught
from jobs.training.wanted import outputs_of
from serving.bundle import MANIFEST, Bundle, read_description

log = logging.getLogger(__name__)


def teacher_metric(
    recipe: Recipe, bundle: Bundle, examples: Sequence[Row], snapshot: Snapshot | None = None
) -> float | None:
    """The metric of the recipe's teacher on these validation rows; None where there is none with these labels.

    From its stored outputs where they are of these very rows, else it answers them: what its bundle says of itself may
    be of others. `snapshot` holds the same rows.
    """
    folder = teacher_folder(recipe)
    if not (folder / MANIFEST).exists() or read_description(folder).labels != bundle.labels:
        return None
    try:
        outputs, prepared = outputs_of(recipe), Prepared.open(Path(output(recipe), "prepared"))
        if prepared.sample("validation") == sample(examples):
            return taught(recipe, prepared, outputs, examples).metric
        reason = f"{outputs} is of other rows"
    except (FolderError, JobError) as error:
        reason = str(error)
    log.info("the teacher answers %d validation rows: %s", len(examples), reason)
    contender = Contender(name="teacher", kind="reference", folder=str(folder))
    question = Measurement(
        task=recipe.task,
        data=recipe.data,
        split="validation",
        snapshot=snapshot,
        contenders=[contender],
        sample=sample(examples),
        metric=recipe.budget.metric,
    )
    return measure(question)["teacher"].figures["metrics"][recipe.judged_by.metric]
