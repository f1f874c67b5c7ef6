"""Join two bundles into one: the first answers what it is sure of, the second the rest.

    ray job submit --working-dir . -- python -m jobs.cascade --config configs/intent.yaml cascade.first=<bundle>
    ... cascade.second=<bundle>     instead of <output>/bundle
    ... cascade.max_loss=0.002      of the second's accuracy, instead of budget.min_retention of the teacher's

Both are exported classifiers of the same labels. On the validation rows their probabilities are calibrated, and the
threshold is chosen: the lowest one with which the cascade is accurate enough, with `budget.margin` standard errors of
what it loses against the second to spare, as other rows are lost by chance. Writes <output>/cascade, a bundle like
any other, and registers it as models:/<name>@cascade.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import quiet, registry, tracking, version
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.command import Result, main
from jobs.data.snapshot import Snapshot, take_snapshot
from jobs.data.source import Row, rows, shown
from jobs.layout import output, teacher_folder
from jobs.measure.answers import FIRST_SHARE, input_of
from jobs.measure.calibration import confidence, fit_temperature, lowest_threshold
from jobs.measure.card import card
from jobs.measure.measurement import measure_candidate
from jobs.measure.teacher import teacher_metric
from jobs.preflight import check_given
from serving.bundle import MANIFEST, Bundle, bundle_digest, with_metrics
from serving.cascade import check_pair, join
from serving.runtime import load_bundle
from serving.runtimes import read_servable
from tuning.pareto import METRIC, RETENTION

if TYPE_CHECKING:
    import numpy as np

ALIAS = "cascade"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `cascade`, with the bundle measured on the validation rows and registered."""
    if recipe.cascade.first is None:
        raise UsageError("cascade.first: missing; give a small exported bundle: its folder, or models:/<name>@<alias>")
    chosen_by = TASKS[recipe.task].metric
    if (metric := recipe.budget.metric) not in (None, chosen_by):
        raise UsageError(f"budget.metric: {metric!r}: a cascade's threshold is chosen by {chosen_by}; leave it out")
    for field, given in (("first", recipe.cascade.first), ("second", recipe.cascade.second)):
        check_given(f"cascade.{field}", given, uri=True)
    check_given("teacher.bundle", recipe.teacher.bundle)
    with tracking.run(
        "cascade", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        first = registry.folder(recipe.cascade.first, MANIFEST)
        second = registry.folder(recipe.cascade.second or str(Path(output(recipe), "bundle")), MANIFEST)
        folder = Path(output(recipe), "cascade")
        bundle, measured = cascade_and_measure(recipe, first, second, folder, run.id)
        if data := bundle.provenance["second"]["provenance"].get("data"):
            run.tag(slimcart__data=data)
        measured[METRIC] = measured[f"validation_{chosen_by}"]
        if teacher := bundle.provenance["teacher_accuracy"]:
            measured[RETENTION] = measured[METRIC] / teacher
        metrics = with_metrics(folder, measured, functools.partial(card, recipe=recipe)).metrics
        run.metrics.log(metrics)
        log.info("the first model answers %.1f %% of the validation rows", 100 * metrics[f"validation_{FIRST_SHARE}"])
        check_accuracy(metrics[METRIC], bundle.provenance["wanted_accuracy"])
        uri = registry.register(recipe.name, run, folder, {registry.BUNDLE_TAG: bundle_digest(folder)}, ALIAS)
    return Result("cascade", run.id, output(recipe), metrics, bundle=str(folder), model_uri=uri)


def cascade_and_measure(
    recipe: Recipe, first: Path, second: Path, folder: Path, run_id: str
) -> tuple[Bundle, dict[str, float]]:
    """Make `folder` the cascade of two bundles; returns it and its figures of the validation rows."""
    check_pair(read_servable(first), read_servable(second))  # before rows are read
    with take_snapshot(recipe.data, "validation", Path(output(recipe))) as snapshot:
        bundle = cascade(recipe, first, second, folder, {"run_id": run_id}, snapshot)
        return bundle, measure_candidate(recipe, folder, snapshot=snapshot)


def cascade(
    recipe: Recipe,
    first: Path,
    second: Path,
    folder: Path,
    provenance: Mapping[str, Any],
    validation: Snapshot | None = None,
) -> Bundle:
    """Make `folder` the cascade of two bundles, calibrated on the validation rows.

    Raises `BundleError` where they do not go together, `JobError` where no threshold is accurate enough.
    """
    small, large = read_servable(first), read_servable(second)
    check_pair(small, large)
    examples = validation.rows() if validation else list(rows(recipe.data, "validation"))
    label_N = _label_numbers(examples, large)
    with quiet.at_work():
        logits = [load_bundle(each).logits([input_of(row) for row in examples]) for each in (first, second)]
    temperatures = fit_temperature(logits[0], label_N), fit_temperature(logits[1], label_N)
    first_right_N, second_right_N = (logits_NC.argmax(axis=1) == label_N for logits_NC in logits)
    first_alone, second_alone = float(first_right_N.mean()), float(second_right_N.mean())
    teacher = teacher_metric(recipe, large, examples, validation)
    wanted = wanted_accuracy(recipe, teacher, second_alone)
    confidence_N, margin = confidence(logits[0], temperatures[0]), recipe.budget.margin
    threshold = lowest_threshold(confidence_N, first_right_N, second_right_N, wanted, margin)
    words = f"an accuracy of {wanted:.4f} on the validation rows ({first_alone:.4f} and {second_alone:.4f} alone)"
    if margin:
        words += f" with budget.margin={margin:g} standard errors to spare"
    if threshold is None:
        raise JobError(f"no threshold at which the first of two models answers anything keeps {words}")
    if threshold == 0:
        log.warning("the first model alone keeps %s: the second is never asked, and this is its first model", words)
    origins = {
        name: {"bundle": bundle_digest(place), "provenance": part.provenance}
        for name, place, part in (("first", first, small), ("second", second, large))
    }
    alone = {"validation_first_accuracy": first_alone, "validation_second_accuracy": second_alone}
    limits = {"wanted_accuracy": wanted, "teacher_accuracy": teacher}
    made = {**provenance, **origins, **limits, "code": version.code_version()[1]}
    return join(folder, first, second, threshold, temperatures, alone, made)


def wanted_accuracy(recipe: Recipe, teacher: float | None, second: float) -> float:
    """What the cascade must reach on the validation rows, where its teacher has the accuracy `teacher` and its second
    model alone `second`."""
    if recipe.cascade.max_loss is not None:
        return second - recipe.cascade.max_loss
    if teacher is None:
        raise JobError(
            f"{teacher_folder(recipe)}: no teacher of these labels, of whose accuracy budget.min_retention could be "
            "kept; give teacher.bundle, or cascade.max_loss"
        )
    return recipe.budget.min_retention * teacher


def check_accuracy(measured: float, wanted: float) -> None:
    """Raise `JobError` where a cascade, measured as one bundle, is less accurate than it was calibrated to be."""
    if measured < wanted:
        raise JobError(
            f"measured as one bundle: an accuracy of {measured:.4f} on the validation rows, {wanted:.4f} was wanted; "
            "the cascade is not registered: ask for more, by cascade.max_loss"
        )


def _label_numbers(examples: Sequence[Row], bundle: Bundle) -> np.ndarray:
    import numpy as np

    numbers = {label: number for number, label in enumerate(bundle.labels)}
    labels = [row.label for row in examples]
    if unknown := sorted(set(labels) - numbers.keys()):
        raise UsageError(f"data.validation: label {shown(unknown[0], labels)} is none of the bundle's {len(numbers)}")
    return np.array([numbers[label] for label in labels])


if __name__ == "__main__":
    main(run)
