"""Decoders: a bundle in CTranslate2, weights in int8, against transformers. Greedy search on one thread.

    SLIMCART_DATA=<folder> python -m benchmarks.decoder [--state FOLDER]

Of test rows of description_rnnlg: the share of prompts that both complete by the same tokens, and tokens a second of
both. --state keeps teacher and student, and takes those that `benchmarks.distillation quality` left there.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks._compare import compare, exit_code, missing, print_row, seconds
from benchmarks._recorded import SEEDS, on_cluster
from benchmarks._runs import Runs
from benchmarks._students import STUDIES
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.data.feeds import spread
from jobs.data.source import rows
from jobs.measure.fresh import pin
from jobs.measure.reference import TorchGenerator
from serving.generator import completions
from serving.inputs import TOKENS_PER_BATCH, prompt
from serving.runtimes import GeneratorModel, open_bundle

SET = "description_rnnlg"
STUDY, STUDENTS = STUDIES[SET]
PROMPTS, FEWER = 200, 40  # the latter where each is completed alone
ALIKE, FASTER = 0.95, 1.0
RUNS = 3
SAME, ALONE, TOGETHER = (
    f"{SET}, 2 of 6 layers: {what}"
    for what in ("prompts completed by the same tokens", "one prompt at a time", f"{PROMPTS} prompts in batches")
)
PEER = f"transformers {importlib.metadata.version('transformers')}, torch {torch.__version__}, float32"
UNIT = "tokens/s"


def main() -> int:
    """Measure all rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoder")
    parser.add_argument("--state", type=Path, metavar="FOLDER")
    state, data = parser.parse_args().state, os.environ.get("SLIMCART_DATA")
    if not data:
        missing(SAME, "share", "SLIMCART_DATA is not set", ALIKE)
        for row in (ALONE, TOGETHER):
            missing(row, UNIT, "SLIMCART_DATA is not set", FASTER)
        return exit_code()
    there = state is not None and (state / f"{SET}-{SEEDS[0]}" / "student").exists()
    with on_cluster(state, needed=not there, here=False) as place:
        runs = Runs(place, Path(data), SET, STUDY, SEEDS[0])
        if not there:
            train(runs)
        torch.set_num_threads(1)
        pin(1)
        measure(runs)
    return exit_code()


def train(runs: Runs) -> None:
    """Teacher and student, as the quality row trains them."""
    (student,) = STUDENTS.values()
    if not runs.teacher.exists():
        runs.verb("finetune")
    runs.verb("distill", *student.overrides)


def measure(runs: Runs) -> None:
    """Compress the student and print all rows."""
    student, bundle = runs.folder / "student", runs.folder / "decoder"
    compress(runs.recipe, student, bundle, {})
    opened = open_bundle(bundle, "generate", 1)
    ours, theirs = opened.model, TorchGenerator(student)
    longest = opened.bundle.max_length
    prompts = asked(runs.recipe, opened.tokenizer, longest)
    written, expected = (completions(model, prompts, longest) for model in (ours, theirs))
    same = float(np.mean([mine == other for mine, other in zip(written, expected, strict=True)]))
    print_row(
        name=SAME,
        ours=sum(map(len, written)),
        peer=f"{sum(map(len, expected))}, {PEER}",
        unit="tokens written",
        ratio=same,
        spread=None,
        runs=len(prompts),
        bar=ALIKE,
    )
    few = prompts[:: len(prompts) // FEWER or 1]
    for row, chosen, tokens_per_batch in ((ALONE, few, 1), (TOGETHER, prompts, TOKENS_PER_BATCH)):
        given = {"prompts": chosen, "longest": longest, "tokens_per_batch": tokens_per_batch}
        sides = [functools.partial(rate, model, **given) for model in (ours, theirs)]
        compare(row, UNIT, sides[0], sides[1], PEER, FASTER, RUNS)


def asked(recipe: Recipe, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """Token ids of prompts out of the test rows, evenly spread over them, no two alike."""
    texts = list(dict.fromkeys(prompt(row.text, row.pair) for row in rows(recipe.data, "test")))
    tokenizer.enable_truncation(longest - 1)
    chosen = [texts[place] for place in spread(len(texts), PROMPTS)]
    return [each.ids for each in tokenizer.encode_batch(chosen, add_special_tokens=False)]


def rate(model: GeneratorModel, prompts: Sequence[list[int]], longest: int, tokens_per_batch: int) -> float:
    """Tokens written in a second."""
    written = 0

    def work() -> None:
        nonlocal written
        written = sum(map(len, completions(model, prompts, longest, tokens_per_batch)))

    taken = seconds(work)
    return written / taken


if __name__ == "__main__":
    sys.exit(main())
