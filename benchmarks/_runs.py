"""The jobs over one real data set with one seed, in a folder of their own. A teacher is trained once and kept."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from benchmarks._recorded import verb
from configs.folder import digest_json
from configs.loader import load
from configs.schema.recipe import Recipe
from configs.schema.tasks import BASELINES, TASKS
from jobs.measure.baselines import made
from jobs.measure.comparison import TEACHER
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measurement, measure
from jobs.versions import behaviour
from tuning.figures import flat


class Study(NamedTuple):
    """A data set's recipe, its metric, and what the study changes of the recipe."""

    recipe: str
    metric: str
    overrides: tuple[str, ...] = ()
    rows: Mapping[str, tuple[str, ...]] | None = None  # {column: values of it that the study is about}; None: all

    def with_overrides(self, also: Sequence[str]) -> Study:
        """The study with further overrides of its recipe."""
        return self._replace(overrides=(*self.overrides, *also))


class Runs:
    """One seed of a study of the set `name` in the folder `data`. What is made lies below `scratch`."""

    def __init__(self, scratch: Path, data: Path, name: str, study: Study, seed: int) -> None:
        self.folder, self._log = scratch / f"{name}-{seed}", scratch / f"{name}-{seed}.log"
        files = {split: data / name / f"{split}.jsonl.gz" for split in ("train", "validation", "test")}
        if study.rows:
            files = {split: _those(file, scratch / name, study.rows) for split, file in files.items()}
        sources = [f"data.{split}={file}" for split, file in files.items()]
        self.study, self._told = study, [*sources, *study.overrides, f"seed={seed}"]
        self._given = [each.replace(str(data), "$SLIMCART_DATA").replace(f"{scratch}/", "") for each in self._told]
        self.recipe = load(Recipe, study.recipe, [*self._told, f"output={self.folder}"])

    def verb(self, name: str, *overrides: str) -> dict[str, float]:
        """Metrics of `python -m jobs.<name>`."""
        return verb(name, self.study.recipe, [*self._told, f"output={self.folder}", *overrides], self._log)

    def command(self, name: str, overrides: Sequence[str]) -> str:
        """What a user would write for it."""
        return shlex.join(["python", "-m", f"jobs.{name}", "--config", self.study.recipe, *self._given, *overrides])

    def measured(self, name: str, kind: str, folder: Path | None = None) -> dict[str, float]:
        """The metrics of a contender on the test rows; those of the validation rows begin with `validation_`."""
        contender = Contender.model_validate({"name": name, "kind": kind, "folder": str(folder) if folder else None})
        found: dict[str, float] = {}
        for split, prefix in (("test", ""), ("validation", "validation_")):
            asked = Measurement.model_validate(
                {"task": self.recipe.task, "data": self.recipe.data, "split": split, "contenders": [contender]}
            )
            found |= {f"{prefix}{metric}": value for metric, value in flat(measure(asked)[name].figures).items()}
        return found

    @property
    def teacher(self) -> Path:
        """The teacher's folder."""
        return self.folder / "teacher"

    def student_stages(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """The stages that make a student."""
        recipe = load(Recipe, self.study.recipe, [*self._told, *overrides])
        return "prepare", *(["pool"] if recipe.has_pool else []), "finetune", "teach", "distill"

    def made_by(self, *stages: str) -> str:
        """A name for what these stages make: another one once their behaviour has changed."""
        return digest_json(behaviour(*stages))[:12]

    @cached_property
    def known(self) -> dict[str, dict[str, float]]:
        """Figures of the teacher, and of the baselines where it classifies; trains it where it is not there yet."""
        file = self.folder / f"known-{self.made_by('prepare', 'finetune', 'measure', 'baselines')}.json"
        if not file.exists():
            self.train()
            found = {TEACHER: self.measured(TEACHER, "reference", self.teacher)}
            if self.recipe.task == "classify":
                made_of = made(self.recipe, TASKS["classify"].bundled_baselines, self.teacher)
                names = {BASELINES[name].contender: folder for name, folder in made_of.items()}
                found |= {name: self.measured(name, "bundle", folder) for name, folder in names.items()}
            file.write_text(json.dumps(found), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def train(self) -> None:
        """Train the teacher, unless it is there as its stages are now."""
        finished = self.folder / f"finetuned-{self.made_by('prepare', 'finetune')}"
        if not finished.exists() or not self.teacher.exists():
            self.verb("finetune")
            finished.touch()


def _those(file: Path, folder: Path, values: Mapping[str, tuple[str, ...]]) -> Path:
    """A file in `folder` of the rows with one of the values in each column."""
    made = folder / file.name.removesuffix(".gz")
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            chosen = [line for line in lines if _has(json.loads(line), values)]
        made.with_suffix(".partial").write_text("".join(chosen), encoding="utf-8")
        made.with_suffix(".partial").replace(made)
    return made


def _has(row: Mapping[str, str], values: Mapping[str, tuple[str, ...]]) -> bool:
    return all(row[column] in chosen for column, chosen in values.items())
