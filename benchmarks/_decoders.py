"""Decoders of description_rnnlg: teachers of three sizes, their students as files, and what both say and take."""

from __future__ import annotations

import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from benchmarks._recorded import SEEDS
from benchmarks._runs import Runs, Study
from benchmarks._students import ONE_CORE
from configs.schema.models import NewModelSpec
from configs.schema.tasks import ANSWER_SHAPE
from jobs.measure.comparison import TEACHER
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measurement, key, measure
from serving.bundle import bundle_bytes, read_bundle
from tuning.figures import flat

SET = "description_rnnlg"
ONE, MANY = ANSWER_SHAPE, (16, *ANSWER_SHAPE[1:])  # prompts at once, tokens of each, tokens of each answer
KEEPS = 0.98  # of the teacher's BLEU
ENOUGH = 0.5  # BLEU of the validation rows that the smallest teacher may lack of the best
RUNS = 3
FLOAT = "the teacher in CTranslate2, float"
# what is written is measured as it is, and goes on to a stream as it comes: checks would write some of it again
UNCHECKED = ("checks.enabled=false", "budget.max_held=null", "budget.max_slot_errors=null")
STUDY = Study(
    "configs/description.yaml",
    "bleu",
    (ONE_CORE, *UNCHECKED, "teacher.epochs=8"),
    rows={"act": ("inform", "recommend")},
)
TEACHERS = {  # from the smallest; new weights, one vocabulary
    "2 layers of 128": NewModelSpec(layers=2, hidden=128, heads=4, vocabulary=1000),
    "4 layers of 192": NewModelSpec(layers=4, hidden=192, heads=4, vocabulary=1000),
    "6 layers of 256": NewModelSpec(layers=6, hidden=256, heads=4, vocabulary=1000),
}
STUDENTS = {
    "2 layers": ("student.layers=2",),
    "1 layer": ("student.layers=1",),
    "1 narrower layer": ("student.layers=1", "student.hidden=96", "student.feed_forward=192", "distillation.epochs=24"),
}
INT8 = "compression=[{step: export}, {step: quantize, tokens: true}]"
AS_IT_IS = "budget.min_retention=0"  # what a file loses is looked at here


class Turns(NamedTuple):
    """A figure of two sides, one pair for each run in turns."""

    ours: Sequence[float]
    peer: Sequence[float]

    def point(self) -> dict[str, float]:
        """Medians of both, and of their ratios the least and the most."""
        ratios = [mine / theirs for mine, theirs in zip(self.ours, self.peer, strict=True)]
        medians = {"ours": statistics.median(self.ours), "peer": statistics.median(self.peer)}
        return medians | {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


class Decoders:
    """All that is trained with the first seed; each is made when it is first asked for, and kept in `state`."""

    def __init__(self, state: Path, data: Path, also: Sequence[str]) -> None:
        self.state, self._data, self._also = state, data, also

    def runs(self, teacher: str) -> Runs:
        """The jobs with a teacher of one of the sizes."""
        return self.of(teacher, STUDY.with_overrides(self.sizes(teacher)))

    def sizes(self, teacher: str) -> tuple[str, ...]:
        """What makes a teacher of that size, as overrides."""
        sizes = ", ".join(f"{name}: {value}" for name, value in TEACHERS[teacher].model_dump(exclude={"tied"}).items())
        return (f"teacher.new={{{sizes}}}",)

    def rows_of(self, split: str) -> Path:
        """The file of all rows of a split."""
        return self._data / SET / f"{split}.jsonl.gz"

    def of(self, name: str, study: Study) -> Runs:
        """The jobs of a study, in a folder of its own."""
        return Runs(self.state / named(name), self._data, SET, study.with_overrides(self._also), SEEDS[0])

    @cached_property
    def teachers(self) -> dict[str, dict[str, float]]:
        """{size: figures of the rows}; trains those that are not there yet."""
        return {size: self.runs(size).known[TEACHER] for size in TEACHERS}

    @property
    def best_bleu(self) -> float:
        """Of the teachers, on the validation rows."""
        return max(figures["validation_bleu"] for figures in self.teachers.values())

    @cached_property
    def teacher(self) -> str:
        """The smallest size that is good enough."""
        return next(
            size for size, figures in self.teachers.items() if figures["validation_bleu"] >= self.best_bleu - ENOUGH
        )

    @cached_property
    def students(self) -> dict[str, dict[str, float]]:
        """{student of the chosen teacher: figures of its file}; makes those that are not there yet."""
        runs = self.runs(self.teacher)
        return {name: runs.measured("bundle", "bundle", self.file(name)) for name in STUDENTS}

    @cached_property
    def winner(self) -> str:
        """The fastest student that keeps enough on the validation rows. Raises `RuntimeError` where none does."""
        least = KEEPS * self.teachers[self.teacher]["validation_bleu"]
        good = [name for name, figures in self.students.items() if figures["validation_bleu"] >= least]
        if not good:
            raise RuntimeError(f"no student keeps {KEEPS:.0%} of the teacher's BLEU on the validation rows")
        (speeds,) = self._measured([self._bundle(name, self.file(name)) for name in good], 1)
        return max(good, key=lambda name: speeds[name][ONE])

    @cached_property
    def speeds(self) -> list[dict[str, dict[tuple[int, ...], float]]]:
        """Tokens a second of the winner, its teacher and the teacher's float file, in turns: of each run {name: {shape:
        them}}."""
        teacher = Contender(name=TEACHER, kind="reference", folder=str(self.teacher_folder))
        files = {FLOAT: self.teacher_file, self.winner: self.file(self.winner)}
        return self._measured([teacher, *(self._bundle(*each) for each in files.items())], RUNS)

    def turns(self, peer: str, shape: tuple[int, ...]) -> Turns:
        """The winner against a `peer` of `speeds`."""
        return Turns(*([each[name][shape] for each in self.speeds] for name in (self.winner, peer)))

    def student(self, name: str, overrides: Sequence[str] = (), seed: int = SEEDS[0]) -> Path:
        """The folder of a student of the chosen teacher, trained where it is not there yet."""
        runs, told = self.runs(self.teacher), [*STUDENTS[name], *overrides]
        output = runs.folder / f"seed-{seed}"  # its students share what the teacher says of the rows
        place = output / named(f"{name} {' '.join(overrides)} {runs.made_by(*runs.student_stages(told))}") / "student"
        if not place.exists():
            runs.verb("distill", *told, f"teacher.bundle={runs.teacher}", f"seed={seed}", f"output={output}")
            place.parent.mkdir(exist_ok=True)
            (output / "student").rename(place)
        return place

    def file(self, name: str) -> Path:
        """The bundle of a student, in int8, made where it is not there yet."""
        student = self.student(name)
        return self._compressed(student, student.with_name("int8"), INT8)

    @property
    def teacher_folder(self) -> Path:
        """The chosen teacher, as it was trained."""
        return self.runs(self.teacher).teacher

    @cached_property
    def teacher_file(self) -> Path:
        """The bundle of the teacher, in float."""
        teacher = self.teacher_folder
        return self._compressed(teacher, teacher.with_name("teacher-float"), "compression=[{step: export}]")

    def command(self, verb: str, overrides: Sequence[str] = ()) -> str:
        """What a user would write."""
        return self.runs(self.teacher).command(verb, overrides)

    def _compressed(self, model: Path, to: Path, steps: str) -> Path:
        if not to.exists():
            runs = self.runs(self.teacher)
            runs.verb("compress", f"bundle={model}", steps, AS_IT_IS)
            shutil.move(runs.folder / "bundle", to)
        return to

    def _bundle(self, name: str, folder: Path) -> Contender:
        return Contender(name=name, kind="bundle", folder=str(folder))

    def _measured(self, contenders: Sequence[Contender], runs: int) -> list[dict[str, dict[tuple[int, ...], float]]]:
        """Tokens a second, each run in a fresh process on one thread, tokenizer included."""
        recipe = self.runs(self.teacher).recipe
        question = Measurement(
            task=recipe.task,
            data=recipe.data,
            split="test",
            contenders=list(contenders),
            score=False,
            shapes=[ONE, MANY],
            tokenizer=str(self.teacher_folder / "tokenizer.json"),
        )
        return [{name: _speeds(flat(each.figures)) for name, each in measure(question).items()} for _ in range(runs)]


def _speeds(figures: Mapping[str, float]) -> dict[tuple[int, ...], float]:
    return {shape: figures[key(shape, "tokens_per_second")] for shape in (ONE, MANY)}


def bytes_of(bundle: Path) -> int:
    """All that a bundle takes on disk."""
    return bundle_bytes(read_bundle(bundle))


def named(what: str) -> str:
    """A folder's name for it."""
    return re.sub(r"\W+", "-", what)
