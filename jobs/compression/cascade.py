"""Two bundles as one: calibrated on the validation rows, with the threshold that keeps enough."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import quiet, version
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.data.snapshot import Snapshot
from jobs.data.source import Row, rows, shown
from jobs.layout import teacher_folder
from jobs.measure.answers import input_of
from jobs.measure.calibration import confidence, fit_temperature, lowest_threshold
from jobs.measure.teacher import teacher_metric
from serving.bundle import Bundle, bundle_digest
from serving.cascade import check_pair, join
from serving.runtime import load_bundle
from serving.runtimes import read_servable

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)


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
    origin = {**provenance, **origins, **limits, "code": version.code_version()[1]}
    return join(folder, first, second, threshold, temperatures, alone, origin)


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
