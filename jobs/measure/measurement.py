"""Measuring in a process of its own: nothing loaded before it, threads pinned, on one core.

python -m jobs.measure.measurement < question.json > answer.json
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from cluster import quiet
from cluster.session import JobError
from configs.loader import Spec, UsageError
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import DEFAULT, TASKS, named
from jobs.data.snapshot import Snapshot
from jobs.data.source import Row, Sample, check_unchanged, rows
from jobs.measure.answers import Answer, Fitted, LoadedContender, Predictor, input_of
from jobs.measure.bootstrap import interval, resampled
from jobs.measure.contenders import Contender, load
from jobs.measure.resources import meter, peak_mb
from jobs.measure.retention import Teacher, kept
from jobs.measure.timing import BLOCKS, busy_words, interleaved, texts_of_length
from serving.inputs import Input, joined
from tuning.figures import BUDGET_SHAPE, MIX, Figures, add, at, figures, flat
from tuning.pareto import TIMED

CHANGED = "batch_changed"  # share of the rows that are answered otherwise among others than alone
AMONG = 32  # rows, the others with it, that such an answer is given in
CALLS = 300
SECONDS_OF_A_SHAPE = 2.0  # for each contender, at other shapes than that of the budget
TEXTS = 50  # different inputs that a latency is measured over
SECONDS = 3600  # that a process may take, waiting for quiet included,
SECONDS_OF_A_ROW = 1.0  # and more for each row and contender that is scored
PARENT = "SLIMCART_MEASURED_FOR"  # process that a fresh one works for
PR_SET_PDEATHSIG = 1  # of linux/prctl.h

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
    resampled: bool = False  # give back the metric over resampled rows, as with `resources`
    metric: str | None = None  # that is resampled, of those of the task; none: its own
    sample: Sample | None = None  # the rows to measure on: any others are an error
    batches: bool = False  # of exported bundles also say whether answers depend on the batch, see `changed`
    shapes: list[tuple[int, int]] = Field(default_factory=list)
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
    its task over resampled rows, the same ones for every contender."""

    figures: Figures
    answers: list[Answer]
    resampled: Sequence[float] = ()


def measure(question: Measurement) -> dict[str, Measured]:
    """{contender: what was measured} in a fresh process. Raises `JobError` with its last words."""
    found = {
        name: Measured(measured, [Answer(*each) for each in answers], values)
        for name, (measured, answers, values) in run_fresh(
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


def run_fresh(module: str, text: str, threads: int, what: str, seconds: float = SECONDS) -> Any:
    """The JSON that `module` prints last when it reads `text`, its math libraries held to `threads` threads.

    Raises `JobError` with its last words, or where it takes longer than `seconds`.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("OMP_WAIT_POLICY", None)  # pinned to a core of its own; waiting threads may spin
    said: list[str] = []
    try:
        with _heard(said) as pipe:
            done = subprocess.run(
                [sys.executable, "-m", module],
                input=text,
                stdout=subprocess.PIPE,
                stderr=pipe,
                text=True,
                env=environment,
                timeout=seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise JobError(f"measuring {what} was not done after {seconds:g} s, and was ended") from None
    if done.returncode:
        raise JobError(f"measuring {what} failed: {(said or [f'exit code {done.returncode}'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def _heard(said: list[str]) -> Iterator[int]:
    """A pipe whose lines are `said` when the block is over; what a process says that waits is logged at once."""
    read, write = os.pipe()

    def hear() -> None:
        with open(read, encoding="utf-8", errors="replace") as lines:
            for line in filter(None, map(str.strip, lines)):
                said.append(line)
                if line.startswith("waiting"):
                    log.warning(line)

    listener = threading.Thread(target=hear, daemon=True)
    listener.start()
    try:
        yield write
    finally:
        os.close(write)
        listener.join()


def measure_candidate(
    recipe: Recipe, bundle: Path, teacher: Teacher | None = None, snapshot: Snapshot | None = None
) -> dict[str, float]:
    """What the search needs of an exported bundle: validation metrics, latency at the budget's shape, size.

    With a `teacher` also what is kept of it; the rows must then be those that it answered. `snapshot`: the validation
    rows. Raises `JobError`.
    """
    from serving.bundle import bundle_bytes, read_bundle

    description = read_bundle(bundle)
    contender = Contender(name="bundle", kind="bundle", folder=str(bundle))
    unseen = {} if recipe.data.on_leak == "drop" else {"test": None}  # whose texts say which validation rows there are
    timed = TASKS[recipe.task].at_shapes
    answered = measure(
        Measurement(
            task=recipe.task,
            data=recipe.data.model_copy(update=unseen | {"slices": []}),
            split="validation",
            snapshot=snapshot,
            contenders=[contender],
            shapes=[BUDGET_SHAPE] if timed else [],
            tokenizer=str(bundle / description.tokenizer),
            mix=description.first is not None or not timed,  # what a cascade takes depends on what the rows say
            metric=recipe.budget.metric,
            sample=teacher and teacher.sample,
            resampled=teacher is not None,
        )
    )["bundle"]
    metrics, latency = answered.figures["metrics"], answered.figures["latency"]
    found = {f"validation_{name}": value for name, value in metrics.items()} | flat(figures(latency=latency))
    found["bytes"] = bundle_bytes(description)
    found["megabytes"] = found["bytes"] / 1e6
    if timed:
        found |= {name: latency[at(BUDGET_SHAPE)][name] for name in TIMED}
    if teacher:
        found |= kept(metrics[recipe.judged_by.metric], answered.resampled, teacher)
    return found


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
        shapes=[BUDGET_SHAPE],
    )
    return {
        name: flat(each.figures) | {figure: each.figures["latency"][at(BUDGET_SHAPE)][figure] for figure in TIMED}
        for name, each in measure(question).items()
    }


def key(shape: tuple[int, int], name: str) -> str:
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
        values = resampled(named(task.summed.statistics)(said, examples), named(task.summed.value))
        low, high = interval(values)
        metrics = named(task.score)(said, examples) | {f"{task.metric}_low": low, f"{task.metric}_high": high}
    metrics["rows"] = len(examples)
    metrics |= predict.figures(inputs)
    if question.resources:
        metrics["rows_per_second"] = len(examples) / seconds
        if len(question.contenders) == 1:
            metrics["peak_mb"] = peak
    told = question.resampled or question.resources
    return Measured(figures(metrics), answers if question.answers else [], values if told else [])


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
    question: Measurement, predictors: Mapping[str, Predictor], examples: list[Row], inputs: list[Input]
) -> dict[str, Figures]:
    """Latencies of all contenders in turns, at every shape, and of the rows one by one."""
    found = {name: figures() for name in predictors}
    texts = [joined(input_of(row)) for row in examples[:1000]]
    for shape in question.shapes:
        timed = [each for each in question.contenders if each.shapes is None or shape in each.shapes]
        takers = {each.name: predictors[each.name] for each in timed}
        cut = {file: _batches(question, file, shape, texts) for file in {_tokenizer(question, each) for each in timed}}
        batches = {each.name: cut[_tokenizer(question, each)] for each in timed}
        with quiet.measuring(question.names):
            seconds = math.inf if shape == BUDGET_SHAPE else SECONDS_OF_A_SHAPE
            latencies = interleaved(takers, batches, CALLS, seconds, blocks=BLOCKS if shape == BUDGET_SHAPE else 1)
        for name, latency in latencies.items():
            found[name]["latency"][at(shape)] = latency
    if question.mix:
        calls = TASKS[question.task].calls
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


def _tokenizer(question: Measurement, contender: Contender) -> str:
    file = contender.tokenizer or question.tokenizer
    assert file is not None
    return file


def _batches(question: Measurement, tokenizer: str, shape: tuple[int, int], texts: list[str]) -> list[list[Input]]:
    """`TEXTS` batches of a shape, cut from `texts`."""
    from tokenizers import Tokenizer

    cutter = Tokenizer.from_file(tokenizer)
    cutter.no_truncation()
    cutter.no_padding()
    number, tokens = shape
    alike = texts_of_length(texts, cutter, tokens, TEXTS, question.data.text_pair is not None)
    return [[alike[(start + row) % len(alike)] for row in range(number)] for start in range(TEXTS)]


def end_with_parent() -> None:
    """Have this process killed when the one it works for dies: it would go on to hold the locks of `cluster.quiet`.

    The kernel does so, at the end of the very thread that started it, which waits for it in `run_fresh`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.environ.pop(PARENT, None)
    if parent and os.getppid() != int(parent):  # it died before that
        sys.exit(f"process {parent}, which this one works for, has ended")


def pin(threads: int) -> None:
    """Keep to as many cores as there are threads: a thread that wanders leaves its cache behind."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, quiet.take_cores(threads))


if __name__ == "__main__":
    end_with_parent()
    try:
        print(json.dumps(measure_here(Measurement.model_validate_json(sys.stdin.read()))), flush=True)
    except (JobError, UsageError) as error:  # what is wrong with the rows, in one line
        sys.exit(str(error))
