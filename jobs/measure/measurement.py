"""Measuring in a process of its own: nothing loaded before it, threads pinned, on one core.

python -m jobs.measure.measurement < question.json > answer.json
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from cluster import quiet
from cluster.memory import peak_mb
from cluster.session import JobError
from configs.loader import Spec, UsageError
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import BUDGET_SHAPE, DEFAULT, TASKS, Task, named
from jobs.data.snapshot import Snapshot
from jobs.data.source import Row, Sample, check_unchanged, place, rows
from jobs.measure.answers import UNSCORED, Answer, Fitted, LoadedContender, Predictor, input_of
from jobs.measure.bootstrap import interval, resampled
from jobs.measure.contenders import Contender, load
from jobs.measure.fresh import SECONDS, end_with_parent, pin, run_fresh
from jobs.measure.resources import meter
from jobs.measure.retention import Teacher, kept
from jobs.measure.timing import BLOCKS, busy_words, interleaved, texts_of_length
from serving.bundle import PROFILE, read_description
from serving.inputs import Input, joined
from tuning.figures import MIX, Figures, Shape, add, at, figures, flat
from tuning.pareto import HELD, SENT, TIMED

CHANGED = "batch_changed"  # share of the rows that are answered otherwise among others than alone
AMONG = 32  # rows, the others with it, that such an answer is given in
SECONDS_OF_A_SHAPE = 2.0  # for each contender, at other shapes than that of the budget
SECONDS_OF_ANSWERS = 60.0  # the same at the budget's shape, where answers are written
TEXTS = 50  # different inputs that a latency is measured over
SECONDS_OF_A_ROW = 1.0  # that a process may take, beside `SECONDS`, for each row and contender that is scored

log = logging.getLogger(__name__)


class Measurement(Spec):
    """What a fresh process is asked."""

    task: str = DEFAULT
    data: DataSpec
    split: Literal["validation", "test"]
    snapshot: Snapshot | None = None  # its rows; None: they are read from their source
    contenders: list[Contender]
    score: bool | list[str] = True  # all, none, or those of these names
    resources: bool = False  # score in quiet, and say rows per second, seconds to load, peak of memory
    answers: bool = False  # give back what each said of every row
    profile: bool = False  # give back how the inputs, and the answers to them, are distributed
    resampled: bool = False  # give back the metric over resampled rows, as with `resources`
    metric: str | None = None  # that is resampled, of those of the task; none: its own
    sample: Sample | None = None  # the rows to measure on: any others are an error
    batches: bool = False  # of exported bundles also say whether answers depend on the batch, see `changed`
    shapes: list[Shape] = Field(default_factory=list)
    mix: bool = False  # also time single rows as they come
    watts_per_core: float | None = None  # with it, also the energy of the latter: see `jobs.measure.resources`
    tokenizer: str | None = None
    threads: int = 1

    @property
    def names(self) -> str:
        """Names of the contenders, as one text."""
        return ", ".join(each.name for each in self.contenders)


class Measured(NamedTuple):
    """What was measured of one contender; its answers to the rows in their order, where asked for; and the metric of
    its task over resampled rows, the same ones for every contender, and its profile, as JSON, where asked for."""

    figures: Figures
    answers: list[Answer]
    resampled: Sequence[float] = ()
    profile: str | None = None


class Candidate(NamedTuple):
    """What was measured of a bundle, and text files about it that belong beside its own."""

    metrics: dict[str, float]
    files: dict[str, str]


def measure(question: Measurement) -> dict[str, Measured]:
    """{contender: what was measured} in a fresh process. Raises `JobError` with its last words."""
    found = {
        name: Measured(measured, [Answer(*each) for each in answers], *rest)
        for name, (measured, answers, *rest) in run_fresh(
            "jobs.measure.measurement", question.model_dump_json(), question.threads, question.names, limit(question)
        ).items()
    }
    if words := busy_words({name: each.figures for name, each in found.items()}):
        log.warning(words)
    return found


def limit(question: Measurement) -> float:
    """Seconds after which the process that answers counts as stuck: they grow with the rows that are scored."""
    scored = len(question.contenders) * question.score if isinstance(question.score, bool) else len(question.score)
    if not scored:
        return SECONDS
    snapshot = question.snapshot
    count = snapshot.sample.rows if snapshot else sum(1 for _ in rows(question.data, question.split))
    return SECONDS + SECONDS_OF_A_ROW * scored * count


def measure_candidate(
    recipe: Recipe, bundle: Path, teacher: Teacher | None = None, snapshot: Snapshot | None = None
) -> Candidate:
    """What the search needs of an exported bundle: validation metrics, latency at the budget's shape, size.

    Beside it, what its service needs to see a drift: the profile of these rows.

    Latency of rows as they come is taken, too, where it depends on what they say. With a `teacher` also what is kept of
    it; the rows must then be those that it answered. `snapshot`: the validation rows. Raises `JobError`.
    """
    from serving.bundle import bundle_bytes, read_bundle

    description = read_bundle(bundle)
    contender = Contender(name="bundle", kind="bundle", folder=str(bundle))
    unseen = {} if recipe.data.on_leak == "drop" else {"test": None}  # whose texts say which validation rows there are
    task = recipe.judged_by
    answered = measure(
        Measurement(
            task=recipe.task,
            data=recipe.data.model_copy(update=unseen | {"slices": []}),
            split="validation",
            snapshot=snapshot,
            contenders=[contender],
            shapes=[task.shape],
            tokenizer=str(bundle / description.tokenizer),
            mix=description.first is not None or task.writes,  # what a cascade takes depends on what the rows say
            metric=recipe.budget.metric,
            sample=teacher and teacher.sample,
            profile=True,
            resampled=teacher is not None,
        )
    )["bundle"]
    metrics, latency = answered.figures["metrics"], answered.figures["latency"]
    found = {f"validation_{name}": value for name, value in metrics.items()} | flat(figures(latency=latency))
    found["bytes"] = bundle_bytes(description)
    found["megabytes"] = found["bytes"] / 1e6
    found |= _limited(latency, task) | {name: metrics[name] for name in SENT if name in metrics}
    if teacher:
        found |= kept(metrics[task.metric], answered.resampled, teacher)
    return Candidate(found, {PROFILE: answered.profile} if answered.profile else {})


def time_again(
    recipe: Recipe, bundles: Mapping[str, Path], snapshot: Snapshot | None = None
) -> dict[str, dict[str, float]]:
    """{name: `TIMED` figures, and all at the budget's shape} of bundles, in turns in one process.

    Each is asked texts of that many tokens of its own. `snapshot`: the validation rows.
    """
    from serving.bundle import read_bundle

    contenders = [
        Contender(name=name, kind="bundle", folder=str(bundle), tokenizer=str(bundle / read_bundle(bundle).tokenizer))
        for name, bundle in bundles.items()
    ]
    data = recipe.data.model_copy(update={"test": None, "slices": []})
    question = Measurement(
        task=recipe.task,
        data=data,
        split="validation",
        snapshot=snapshot,
        contenders=contenders,
        score=False,
        shapes=[recipe.judged_by.shape],
    )
    return {
        name: flat(each.figures) | _limited(each.figures["latency"], recipe.judged_by)
        for name, each in measure(question).items()
    }


def _limited(latency: Mapping[str, Mapping[str, float]], task: Task) -> dict[str, float]:
    """The `TIMED` figures at the budget's shape."""
    taken = latency[at(task.shape)]
    return {name: taken[name] for name in TIMED if name in taken}


def key(shape: Shape, name: str) -> str:
    """Flat name of a figure of one shape: batch, tokens, percentile."""
    return f"{at(shape)}_{name}"


def measure_here(question: Measurement) -> dict[str, Measured]:
    """Measure, in this process."""
    pin(question.threads)
    examples = question.snapshot.rows() if question.snapshot else list(rows(question.data, question.split))
    if question.sample:
        check_unchanged(examples, question.sample, question.data, question.split)
    inputs = [input_of(row) for row in examples]
    found: dict[str, Measured] = {}
    predictors: dict[str, LoadedContender] = {}
    for contender in question.contenders:
        name = contender.name
        with quiet.at_work():
            started = time.perf_counter()
            predictors[name] = load(contender, question.data, question.threads)
            seconds = time.perf_counter() - started
        scored = question.score if isinstance(question.score, bool) else name in question.score
        found[name] = _score(question, predictors[name], examples, inputs) if scored else Measured(figures(), [])
        if scored and question.batches and contender.kind == "bundle":
            every = -(-len(inputs) // TASKS[question.task].asked_twice)
            with quiet.at_work():
                found[name].figures["metrics"][CHANGED] = changed(predictors[name], inputs[::every])
        if isinstance(fitted := predictors[name], Fitted):
            found[name].figures["metrics"]["bytes"] = fitted.bytes
        elif scored and question.resources:
            found[name].figures["metrics"]["load_s"] = seconds
    for name, timed in _timed(question, predictors, examples, inputs).items():
        add(timed, to=found[name].figures)
    return found


def _score(question: Measurement, predict: LoadedContender, examples: list[Row], inputs: list[Input]) -> Measured:
    task = TASKS[question.task].by(question.metric)
    with quiet.measuring(question.names) if question.resources else quiet.at_work():
        started = time.perf_counter()
        answers = predict(inputs)
        seconds = time.perf_counter() - started
    peak = peak_mb()
    with quiet.at_work():
        said = [each.text for each in answers]
        metrics = named(task.score)(said, examples)
        if task.metric not in metrics:
            raise UsageError(f"budget.metric: {task.metric!r}: {place(question.data, question.split)}: {UNSCORED}")
        counted = {**task.metrics, **task.further} if question.resources else {task.metric: task.summed}
        values: list[float] = []
        for name, summed in counted.items():
            if name in metrics:
                drawn = resampled(named(summed.statistics)(said, examples), named(summed.value))
                metrics |= dict(zip((f"{name}_low", f"{name}_high"), interval(drawn), strict=True))
                values = drawn if name == task.metric else values
        metrics |= _of_what_goes_out(answers, examples, task)
    metrics["rows"] = len(examples)
    metrics |= predict.figures(inputs)
    if question.resources:
        metrics["rows_per_second"] = len(examples) / seconds
        if len(question.contenders) == 1:
            metrics["peak_mb"] = peak
    told = question.resampled or question.resources
    profile = predict.profile(inputs, answers) if question.profile else None
    return Measured(
        figures(metrics),
        answers if question.answers else [],
        values if told else [],
        profile and profile.model_dump_json(exclude_defaults=True),
    )


def _of_what_goes_out(answers: Sequence[Answer], examples: Sequence[Row], task: Task) -> dict[str, float]:
    """The share of checked answers that are held back, and what limits of a budget ask of the others."""
    checked = [each.held for each in answers if each.held is not None]
    metrics = {HELD: sum(checked) / len(checked)} if checked else {}
    sent = [(each.text, row) for each, row in zip(answers, examples, strict=True) if not each.held]
    if task.sent and sent:
        metrics |= named(task.sent)(*zip(*sent, strict=True))
    return metrics


def changed(predict: Predictor, inputs: Sequence[Input], seed: int = 0) -> float:
    """Share of `inputs`, at least one, that are answered otherwise among `AMONG` in random order than alone."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(inputs))
    differ = 0
    for start in range(0, len(order), AMONG):
        batch = [inputs[index] for index in order[start : start + AMONG]]
        alone = [predict([each])[0].text for each in batch]
        differ += sum(ours != each.text for ours, each in zip(alone, predict(batch), strict=True))
    return differ / len(inputs)


def _timed(
    question: Measurement, predictors: Mapping[str, LoadedContender], examples: list[Row], inputs: list[Input]
) -> dict[str, Figures]:
    """Latencies of all contenders in turns, at every shape, and of the rows one by one."""
    found = {name: figures() for name in predictors}
    texts = [joined(input_of(row)) for row in examples[:1000]]
    task = TASKS[question.task]
    for shape in question.shapes:
        timed = [each for each in question.contenders if each.shapes is None or shape in each.shapes]
        takers: dict[str, Predictor] = {each.name: predictors[each.name] for each in timed}
        if answer := shape[len(BUDGET_SHAPE) :]:
            takers = {name: predictors[name].of_length(shape[1], *answer) for name in takers}
        cut = {file: _batches(question, file, shape, texts) for file in {_tokenizer(question, each) for each in timed}}
        batches = {each.name: cut[_tokenizer(question, each)] for each in timed}
        with quiet.measuring(question.names):
            seconds = SECONDS_OF_A_SHAPE
            if decides := shape == task.shape:
                seconds = SECONDS_OF_ANSWERS if task.writes else math.inf
            latencies = interleaved(takers, batches, task.calls, seconds, blocks=BLOCKS if decides else 1)
        for name, latency in latencies.items():
            room = next(_room(each) for each in timed if each.name == name)
            found[name]["latency"][at(shape)] = latency | _pace(shape, room, latency["p50_ms"])
    if question.mix:
        calls = task.calls
        count = min(calls, len(inputs))
        single = [[inputs[number * len(inputs) // count]] for number in range(count)]
        joules = meter(question.watts_per_core) if question.watts_per_core else None
        with quiet.measuring(question.names):
            latencies = interleaved(predictors, single, calls, joules=joules)
        for name, latency in latencies.items():
            if joules:
                found[name]["metrics"]["joules_per_1000"] = 1000 * latency.pop("joules")
            found[name]["latency"][MIX] = latency
    return found


def _room(contender: Contender) -> float:
    """The most tokens that a contender writes after a prompt of one token."""
    return read_description(Path(contender.folder)).max_length - 1 if contender.folder else math.inf


def _pace(shape: Shape, room: float, ms: float) -> dict[str, float]:
    """Milliseconds for each token of an answer, and tokens of all answers a second, prompt included, by `ms` a call."""
    batch, _, *answer = shape
    if answer in ([], [1]):
        return {}
    tokens = min(answer[0], room)
    return {"ms_per_token": ms / tokens, "tokens_per_second": 1e3 * batch * tokens / ms}


def _tokenizer(question: Measurement, contender: Contender) -> str:
    file = contender.tokenizer or question.tokenizer
    assert file is not None
    return file


def _batches(question: Measurement, tokenizer: str, shape: Shape, texts: list[str]) -> list[list[Input]]:
    """`TEXTS` batches of a shape, cut from `texts`."""
    from tokenizers import Tokenizer

    cutter = Tokenizer.from_file(tokenizer)
    cutter.no_truncation()
    cutter.no_padding()
    number, tokens, *_ = shape
    alike = texts_of_length(texts, cutter, tokens, TEXTS, question.data.text_pair is not None)
    return [[alike[(start + row) % len(alike)] for row in range(number)] for start in range(TEXTS)]


if __name__ == "__main__":
    end_with_parent()
    try:
        print(json.dumps(measure_here(Measurement.model_validate_json(sys.stdin.read()))), flush=True)
    except (JobError, UsageError) as error:  # what is wrong with the rows, in one line
        sys.exit(str(error))
