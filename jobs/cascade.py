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

from cluster import quiet, registry, version
from cluster.session import JobError
from configs.folder import digest_json
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.command import Result, main
from jobs.data.source import Row, rows, sample, shown
from jobs.job import Way, job
from jobs.layout import bundle_folder, cascade_folder, teacher_folder
from jobs.measure.answers import FIRST_SHARE, input_of
from jobs.measure.calibration import confidence, fit_temperature, lowest_threshold
from jobs.measure.card import card
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import measure_candidate
from jobs.measure.teacher import teacher_metric
from jobs.models.reference import made_from
from jobs.preflight import check_given
from jobs.stage import Stage, made
from jobs.versions import behaviour
from serving.bundle import MANIFEST, Bundle, bundle_digest, read_description, with_metrics
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
    with job("cascade", recipe, parent, cluster=False) as way:
        bundle = made(way, JOINED)
        uri = _register(way, cascade_folder(recipe))
        return way.result(bundle.metrics, bundle=str(cascade_folder(recipe)), model_uri=uri)


def _parts(way: Way) -> tuple[Path, Path]:
    """The folders of the two bundles, fetched once where they are registered models."""
    if "parts of the cascade" not in way.values:
        spec = way.recipe.cascade
        assert spec.first is not None
        places = spec.first, spec.second or str(bundle_folder(way.recipe))
        first, second = (registry.folder(place, MANIFEST) for place in places)
        way.values["parts of the cascade"] = first, second
    return way.values["parts of the cascade"]


def _key(way: Way) -> str:
    """Digest of the two bundles, the validation rows, the teacher and what decides how accurate the cascade is."""
    recipe, teacher = way.recipe, teacher_folder(way.recipe)
    parts: dict[str, Any] = {"bundles": [bundle_digest(each) for each in _parts(way)], "name": recipe.name}
    parts |= {"rows": list(sample(list(rows(recipe.data, "validation")))), "budget": recipe.budget.keyed()}
    parts |= {"cascade": recipe.cascade.max_loss, "machine": machine_kind()}
    parts["teacher"] = bundle_digest(teacher) if (teacher / MANIFEST).exists() else None
    return digest_json(parts | behaviour("cascade", "measure"))


def _make(way: Way, folder: Path, key: str) -> None:
    recipe = way.recipe
    bundle = cascade(recipe, *_parts(way), folder, {"run_id": way.run.id, "key": key})
    metrics = measure_candidate(recipe, folder)
    metrics[METRIC] = metrics[f"validation_{TASKS[recipe.task].metric}"]
    if teacher := bundle.provenance["teacher_accuracy"]:
        metrics[RETENTION] = metrics[METRIC] / teacher
    with_metrics(folder, metrics, functools.partial(card, recipe=recipe))


def _open(way: Way, folder: Path, key: str) -> Bundle | None:
    """The bundle's manifest. A bundle without METRIC was not measured before the job was killed."""
    bundle = read_description(folder) if made_from(folder, key) else None
    return bundle if bundle and METRIC in bundle.metrics else None


def _tell(way: Way, bundle: Bundle) -> None:
    """Raises `JobError` where the cascade is less accurate than was asked."""
    if data := bundle.provenance["second"]["provenance"].get("data"):
        way.run.tag(slimcart__data=data)
    way.run.metrics.log(bundle.metrics)
    log.info(
        "the first model answers %.1f %% of the validation rows", 100 * bundle.metrics[f"validation_{FIRST_SHARE}"]
    )
    check_accuracy(bundle.metrics[METRIC], bundle.provenance["wanted_accuracy"])


JOINED: Stage[Bundle] = Stage("cascade", cascade_folder, _key, _open, _make, tell=_tell)


def _register(way: Way, folder: Path) -> str:
    """Have the model registry know the cascade, once, as the one that the alias names."""
    digest, name = bundle_digest(folder), way.recipe.name
    known = [version for each, version in registry.versions_of(digest) if each == name]
    if not known:
        return registry.register(name, way.run, folder, {registry.BUNDLE_TAG: digest}, ALIAS)
    registry.set_alias(name, ALIAS, known[-1])
    return f"models:/{name}/{known[-1]}"


def cascade(recipe: Recipe, first: Path, second: Path, folder: Path, provenance: Mapping[str, Any]) -> Bundle:
    """Make `folder` the cascade of two bundles, calibrated on the validation rows.

    Raises `BundleError` where they do not go together, `JobError` where no threshold is accurate enough.
    """
    small, large = read_servable(first), read_servable(second)
    check_pair(small, large)
    examples = list(rows(recipe.data, "validation"))
    label_N = _label_numbers(examples, large)
    with quiet.at_work():
        logits = [load_bundle(each).logits([input_of(row) for row in examples]) for each in (first, second)]
    temperatures = fit_temperature(logits[0], label_N), fit_temperature(logits[1], label_N)
    first_right_N, second_right_N = (logits_NC.argmax(axis=1) == label_N for logits_NC in logits)
    first_alone, second_alone = float(first_right_N.mean()), float(second_right_N.mean())
    teacher = teacher_metric(recipe, large, examples)
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


if __name__ == "__main__":
    main(run, takes=["again"])
