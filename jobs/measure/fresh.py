"""Measuring in a process of its own: nothing loaded before it, threads pinned, on one core.

python -m jobs.measure.fresh < question.json > answer.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from cluster import quiet
from cluster.session import JobError
from configs.loader import Spec
from jobs.data.source import Row, rows
from jobs.data.spec import DataSpec
from jobs.measure.contenders import Answer, Contender, Fitted, Labelling, Predictor, asked, joined, load
from jobs.recipe import Recipe
from jobs.tasks.table import TASKS, named
from serving.cascade import Cascade

BUDGET_SHAPE = (1, 32)  # batch and tokens at which `budget.max_p95_ms` holds
MIX = "mix"  # names latencies over single rows as they come, of whatever length
SHARE = "first_share"  # of the rows: what the first model of a cascade answers
CALLS = 300
CALLS_OF_A_LARGE_BATCH = 60
TEXTS = 50  # different inputs that a latency is measured over
SECONDS = 3600


class Question(Spec):
    """What a fresh process is asked."""

    task: str = "classify"
    data: DataSpec
    split: Literal["validation", "test"]
    contenders: list[Contender]
    score: bool = True
    answers: bool = False  # give back what each said of every row
    shapes: list[tuple[int, int]] = Field(default_factory=list)
    tokenizer: str | None = None
    mix: bool = False  # also time single rows as they come: a cascade's latency depends on what they say
    threads: int = 1


class Measured(NamedTuple):
    """What was measured of one contender, and its answers to the rows in their order, where asked for."""

    metrics: dict[str, float]
    answers: list[Answer]


def ask(question: Question) -> dict[str, Measured]:
    """{contender: what was measured} in a fresh process. Raises `JobError` with its last words."""
    threads = str(question.threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("OMP_WAIT_POLICY", None)  # pinned to a core of its own; waiting threads may spin
    done = subprocess.run(
        [sys.executable, "-m", "jobs.measure.fresh"],
        input=question.model_dump_json(),
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise JobError(f"measuring {', '.join(each.name for each in question.contenders)} failed: {lines[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: Measured(metrics, [Answer(*each) for each in answers]) for name, (metrics, answers) in found.items()}


def measure_candidate(recipe: Recipe, bundle: Path) -> dict[str, float]:
    """What the search needs of an exported bundle: validation metrics, p50 and p95 at the budget's shape, size."""
    from serving.bundle import bundle_bytes, read_bundle

    description = read_bundle(bundle)
    contender = Contender(name="bundle", kind="bundle", folder=str(bundle))
    timed = recipe.task == "classify"  # how long a text takes depends on the text
    measured = ask(
        Question(
            task=recipe.task,
            data=recipe.data.model_copy(update={"test": None, "slices": []}),
            split="validation",
            contenders=[contender],
            shapes=[BUDGET_SHAPE] if timed else [],
            tokenizer=str(bundle / description.tokenizer),
            mix=description.first is not None,
        )
    )["bundle"].metrics
    task = TASKS[recipe.task]
    found = {
        ("validation_" + name if name in (task.metric, *task.shown, SHARE) else name): value
        for name, value in measured.items()
    }
    found["bytes"] = bundle_bytes(description)
    found["megabytes"] = found["bytes"] / 1e6
    if timed:
        found |= {name: measured[key(BUDGET_SHAPE, name)] for name in ("p50_ms", "p95_ms")}
    return found


def key(shape: tuple[int, int], name: str) -> str:
    """Name of a latency in an answer: batch, tokens, percentile."""
    return f"batch{shape[0]}_tokens{shape[1]}_{name}"


def answer(question: Question) -> dict[str, Measured]:
    """Measure, in this process."""
    from tokenizers import Tokenizer

    from jobs.measure.timing import interleaved, texts_of_length

    pin(question.threads)
    examples = list(rows(question.data, question.split))
    results: dict[str, dict[str, float]] = {}
    predictors: dict[str, Predictor] = {}
    said: dict[str, list[Answer]] = {}
    for contender in question.contenders:
        with quiet.at_work():
            started = time.perf_counter()
            predictor = load(contender, question.data, question.threads)
            results[contender.name] = {"load_s": time.perf_counter() - started}
        predictors[contender.name] = predictor
        if isinstance(predictor, Fitted):
            results[contender.name]["bytes"] = predictor.bytes
    if question.score:
        for name, predict in predictors.items():
            with quiet.at_work():
                metrics, said[name] = _score(question.task, predict, examples)
            results[name] |= metrics
    if question.shapes:
        assert question.tokenizer is not None
        tokenizer = Tokenizer.from_file(question.tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts = [joined((row.text, row.pair)) for row in examples[:1000]]
        pairs = question.data.text_pair is not None
        for rows_, tokens in question.shapes:
            inputs = texts_of_length(texts, tokenizer, tokens, TEXTS, pairs)
            batches = [[inputs[(start + row) % len(inputs)] for row in range(rows_)] for start in range(TEXTS)]
            calls = CALLS if rows_ == 1 else CALLS_OF_A_LARGE_BATCH
            with quiet.measuring():
                latencies = interleaved(predictors, batches, calls)
            for name, latency in latencies.items():
                results[name] |= {key((rows_, tokens), each): value for each, value in latency.items()}
    if question.mix:
        count = min(CALLS, len(examples))
        batches = [[asked(examples[number * len(examples) // count])] for number in range(count)]
        with quiet.measuring():
            latencies = interleaved(predictors, batches, CALLS)
        for name, latency in latencies.items():
            results[name] |= {f"{MIX}_{each}": value for each, value in latency.items()}
    return {name: Measured(each, said[name] if question.answers else []) for name, each in results.items()}


def _score(task: str, predict: Predictor, examples: list[Row]) -> tuple[dict[str, float], list[Answer]]:
    import resource

    inputs = [asked(row) for row in examples]
    started = time.perf_counter()
    answers = predict(inputs)
    seconds = time.perf_counter() - started
    metrics = named(TASKS[task].score)([each.text for each in answers], examples) | {
        "rows": len(examples),
        "rows_per_second": len(examples) / seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,  # kB on Linux
    }
    if isinstance(predict, Labelling) and isinstance(predict.classifier, Cascade):
        metrics[SHARE] = predict.classifier.share_first(inputs)
    return metrics, answers


def pin(threads: int) -> None:
    """Keep to as many cores as there are threads: a thread that wanders leaves its cache behind."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


if __name__ == "__main__":
    print(json.dumps(answer(Question.model_validate_json(sys.stdin.read()))), flush=True)
