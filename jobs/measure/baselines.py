"""Baselines made of the training rows in seconds: what any student must beat to be worth its training.

Those of a classifier are bundles, so that what is measured beside a winner is what would be served in its place. A new
one is a function in `jobs/tasks/<task>/baselines.py` and a line in its record.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cluster import quiet, version
from configs.folder import digest_json
from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import BASELINES, Task, named
from jobs.data.snapshot import Snapshot
from jobs.data.source import Row, rows
from jobs.layout import output
from jobs.measure.answers import Fitted, input_of
from jobs.measure.bootstrap import interval, resampled
from jobs.measure.calibration import fit_temperature
from jobs.models.reference import made_from
from jobs.versions import behaviour
from serving import units
from serving.bundle import bundle_digest, read_description, write_bundle
from serving.inputs import joined
from serving.runtime import load_bundle

LONGEST = 8192  # words or tokens of a text; more is cut

log = logging.getLogger(__name__)
T = TypeVar("T")


class Made(NamedTuple):
    """A classifier that was fitted: what its manifest says, and what writes its files."""

    fields: Mapping[str, Any]
    fill: Callable[[Path], None]


class Source:
    """What baselines are made of; read once for all of them."""

    def __init__(self, data: DataSpec, task: Task, teacher: Path | None, validation: Snapshot | None = None) -> None:
        """`task`: its metric of the validation rows decides; `teacher`: a reference bundle, where there is one;
        `validation`: the validation rows, where they were read before."""
        self.data, self.task, self.teacher, self._validation = data, task, teacher, validation

    @cached_property
    def train(self) -> list[Row]:
        """The training rows."""
        return list(rows(self.data, "train"))

    @cached_property
    def validation(self) -> list[Row]:
        """The validation rows."""
        return self._validation.rows() if self._validation else list(rows(self.data, "validation"))

    @property
    def pairs(self) -> bool:
        """Whether a row has two texts."""
        return self.data.text_pair is not None

    def value(self, said: Sequence[str]) -> float:
        """The task's metric of these answers to the validation rows."""
        return float(named(self.task.score)(said, self.validation)[self.task.metric])

    @cached_property
    def units(self) -> str:
        """How the texts of the training rows are cut, in words."""
        return units.said(joined(input_of(row)) for row in self.train)

    @cached_property
    def digest(self) -> str:
        """A digest of the training and validation rows."""
        return digest_json([self.train, self.validation])


def made(
    recipe: Recipe, names: Sequence[str], teacher: Path | None, validation: Snapshot | None = None
) -> dict[str, Path]:
    """Bundles of the baselines `names` of a classifier, by name; see `find_or_make` and `Source`.

    `teacher`: a reference bundle, where there is one. One that cannot be made is left out with a warning; the others
    stand.
    """
    source = Source(recipe.data, recipe.judged_by, teacher, validation)
    return _each(names, lambda name: find_or_make(recipe, name, source))


def measured(
    recipe: Recipe, names: Sequence[str], teacher: Path | None, validation: Snapshot | None = None
) -> dict[str, dict[str, float]]:
    """Metrics of the validation rows by the baselines `names`, with the 95 % interval of the task's; as `made`.

    Of those that are bundles their manifest tells; others are fitted.
    """
    source = Source(recipe.data, recipe.judged_by, teacher, validation)
    return _each(names, lambda name: _measured(recipe, name, source))


def _each(names: Sequence[str], make: Callable[[str], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for name in names:
        try:
            found[name] = make(name)
        except Exception as error:  # noqa: BLE001 - whatever a library says of odd rows; no other contender waits for it
            log.warning("the baseline %s is left out: %s", name, " ".join(str(error).split()) or type(error).__name__)
    return found


def _measured(recipe: Recipe, name: str, source: Source) -> dict[str, float]:
    if BASELINES[name].is_bundle:
        figures = read_description(find_or_make(recipe, name, source)).metrics
        return {each.removeprefix("validation_"): value for each, value in figures.items()}
    with quiet.at_work():
        predict: Fitted = named(BASELINES[name].make)(source.data)
        said = [each.text for each in predict([input_of(row) for row in source.validation])]
        return _scored(said, source.validation, source.task)


def _scored(said: Sequence[str], rows: Sequence[Row], task: Task) -> dict[str, float]:
    """The metrics of these answers, and the interval of the task's."""
    low, high = interval(resampled(named(task.summed.statistics)(said, rows), named(task.summed.value)))
    return named(task.score)(said, rows) | {f"{task.metric}_low": low, f"{task.metric}_high": high}


def possible(recipe: Recipe, teacher: Path | None, attributes: bool) -> list[str]:
    """The baselines that a recipe asks for, all of the task where it names none, that can be made with `teacher`.

    `attributes`: whether the rows have some.
    """
    asked = recipe.evaluation.baselines
    names = recipe.judged_by.baselines if asked is None else asked
    return [name for name in names if _impossible(name, teacher, attributes) is None]


def check_possible(name: str, teacher: Path | None, attributes: bool, field: str) -> None:
    """Raise `UsageError` where `field` names a baseline that cannot be made with this `teacher` or without
    `attributes`."""
    if reason := _impossible(name, teacher, attributes):
        raise UsageError(f"{field}: {name!r}: {reason}")


def _impossible(name: str, teacher: Path | None, attributes: bool) -> str | None:
    """Why a baseline cannot be made, and what would work; None where it can."""
    record = BASELINES[name]
    if record.of_teacher and (teacher is None or embedding_table(teacher) is None):
        return "no teacher here has one table of token embeddings; finetune or give one, or do without"
    if record.of_attributes and not attributes:
        return "the rows that the bundle was made of have no attributes; leave it out"
    return None


def find_or_make(recipe: Recipe, name: str, source: Source) -> Path:
    """The bundle of a classifier's baseline, found below the output where rows and teacher are the same, else made."""
    folder, key = Path(output(recipe), ".work", "baselines", name), baseline_key(recipe, name, source)
    if made_from(folder, key):
        return folder
    log.info("making the baseline %s of %d training rows; units: %s", name, len(source.train), source.units)
    with quiet.at_work():
        fitted: Made = named(BASELINES[name].make)(source)
        fields = {
            "name": recipe.name,
            "task": recipe.task,
            "max_length": LONGEST,
            "pairs": source.pairs,
            "attributes": any(row.slots for row in source.train),
            "redact": source.data.redaction,
            **fitted.fields,
            "provenance": {
                "baseline": name,
                "key": key,
                "teacher": _teacher(name, source),
                "code": version.code_version()[1],
            },
        }
        with tempfile.TemporaryDirectory(prefix="slimcart-baseline-") as between:
            write_bundle(Path(between, "bundle"), fields, fitted.fill)
            fields |= _calibrated(Path(between, "bundle"), source.validation, source.task)
        write_bundle(folder, fields, fitted.fill)
    return folder


def baseline_key(recipe: Recipe, name: str, source: Source) -> str:
    """Digest of what a classifier's baseline depends on."""
    parts: dict[str, Any] = {"baseline": name, "name": recipe.name, "metric": recipe.judged_by.metric}
    parts["rows"] = source.digest
    if source.data.redaction:
        parts["redact"] = source.data.redaction.model_dump()
    return digest_json(parts | {"teacher": _teacher(name, source)} | behaviour("baselines"))


def _teacher(name: str, source: Source) -> str | None:
    """The digest of the teacher that a baseline is made of; None of one that is made of rows alone."""
    return bundle_digest(source.teacher) if BASELINES[name].of_teacher and source.teacher else None


def _calibrated(bundle: Path, validation: Sequence[Row], task: Task) -> dict[str, Any]:
    """The temperature and the metrics of a bundle by the validation rows, as the service would answer them."""
    classifier = load_bundle(bundle)
    logits_NC = classifier.logits([input_of(row) for row in validation])
    number = {label: index for index, label in enumerate(classifier.bundle.labels)}
    known = [index for index, row in enumerate(validation) if row.label in number]
    label_N = np.array([number[validation[index].label] for index in known], dtype=np.int64)
    said = [classifier.bundle.labels[best] for best in logits_NC.argmax(axis=1)]
    metrics = _scored(said, validation, task)
    return {
        "temperature": fit_temperature(logits_NC[known], label_N) if known else 1.0,
        "metrics": {f"validation_{each}": float(value) for each, value in metrics.items()}
        | {"validation_rows": float(len(validation))},
    }


def embedding_table(folder: Path) -> str | None:
    """Name of the input embeddings [V, H] of a reference bundle; None where no one tensor has a row for each token.

    An exported bundle has none.
    """
    from safetensors import safe_open

    bundle = read_description(folder)
    if bundle.runtime != "torch":
        return None
    tokens = json.loads((folder / "config.json").read_bytes()).get("vocab_size")
    with safe_open(folder / bundle.model, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    found = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == tokens]
    return found[0] if len(found) == 1 else None
