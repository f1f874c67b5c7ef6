"""Decoders, from a teacher to a stream: how fast and small the winner is, and what some choices of training cost.

    SLIMCART_DATA=<folder> python -m benchmarks.generate [winner|streams|on_policy|adapter] [--record [--anew]]
        [--seeds N ...] [--only PATTERN] [--state FOLDER] [--here] [--also FIELD=VALUE ...]

Winner: teachers of three sizes learn the rows of description_rnnlg that inform or recommend; the smallest within
half a BLEU of the best (validation rows) teaches students, and the fastest of these that keeps 98 % of its validation
BLEU in int8 is the winner. It is timed against the eager float32 teacher and against the teacher's float file in
CTranslate2, in turns, each in a fresh process on one thread: prompts and answers of 32 tokens, tokenizer included.
Streams: the winner as a service, one replica of one thread. Eight clients read streams at once, or one client the same
texts one after another, over HTTP. On-policy: students of the chosen teacher that write a part of their own training
texts against those that write none. Adapter: a decoder of the laptops' rows learns those of the televisions, all its
weights or low-rank matrices beside them; memory is that of a larger one whose weights are new.

Points are recorded in benchmarks/results/generate.jsonl and replayed; --record makes those that are missing or void.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks._adapter import ADAPTER, adapted, memory
from benchmarks._compare import exit_code
from benchmarks._decoders import FLOAT, INT8, KEEPS, MANY, ONE, RUNS, SET, STUDENTS, TEACHERS, Decoders, Turns, bytes_of
from benchmarks._recorded import SEEDS, Record, apart, on_cluster, options, read_options, summarise, through
from benchmarks._servers import service
from benchmarks._streams import Read, read
from jobs.data.source import rows
from jobs.measure.answers import input_of
from jobs.measure.comparison import TEACHER
from serving.inputs import joined

CLIENTS, TEXTS, WRITTEN = 8, 96, 48  # the latter: tokens of a text, at most
FASTER, SMALLER, AT_ONCE = {ONE: 15, MANY: 10}, 8, 3  # bars, in times
STUDENT = "2 layers"  # that writes texts of its own in training, a share of them
SHARE = 0.25
OWN_TEXTS = (f"distillation.on_policy={SHARE}",)
TRAINED = ("prepare", "finetune", "measure")
MADE = (*TRAINED, "teach", "distill", "compress")
EAGER = f"eager transformers {importlib.metadata.version('transformers')}, torch {torch.__version__}, float32"
ENGINE = f"{FLOAT}: ctranslate2 {importlib.metadata.version('ctranslate2')}"
Found = Mapping[str, float]


class Row(NamedTuple):
    """A figure that is recorded."""

    unit: str
    peer: str
    make: Callable[[Decoders, int], Found]  # with a seed
    bar: float | None = None
    overrides: tuple[str, ...] = ()  # of the command that a user would write
    verb: str = "compress"
    stages: tuple[str, ...] = MADE
    seeds: tuple[int, ...] = SEEDS[:1]
    facts: tuple[str, ...] = ()  # further figures of a point


def _teacher(size: str) -> Callable[[Decoders, int], Found]:
    def make(decoders: Decoders, _: int) -> Found:
        figures, folder = decoders.teachers[size], decoders.runs(size).teacher
        found = {"ours": figures["validation_bleu"], "peer": decoders.best_bleu, "bleu": figures["bleu"]}
        return found | {"bytes": bytes_of(folder), "chosen": size == decoders.teacher}

    return make


def _student(name: str) -> Callable[[Decoders, int], Found]:
    def make(decoders: Decoders, _: int) -> Found:
        figures, teacher = decoders.students[name], decoders.teachers[decoders.teacher]
        kept = figures["validation_bleu"] / teacher["validation_bleu"]
        found = {"ours": figures["bleu"], "peer": teacher["bleu"], "kept_on_validation": kept}
        return found | {"bytes": bytes_of(decoders.file(name)), "chosen": name == decoders.winner}

    return make


def _bleu(decoders: Decoders, _: int) -> Found:
    return {"ours": decoders.students[decoders.winner]["bleu"], "peer": decoders.teachers[decoders.teacher]["bleu"]}


def _bytes(decoders: Decoders, _: int) -> Found:
    """How often the winner goes into the teacher."""
    return {"ours": 1e6 / bytes_of(decoders.file(decoders.winner)), "peer": 1e6 / bytes_of(decoders.teacher_folder)}


def _speed(peer: str, shape: tuple[int, ...]) -> Callable[[Decoders, int], Found]:
    return lambda decoders, _: decoders.turns(peer, shape).point()


def _winner() -> dict[str, Row]:
    rows = {
        f"a teacher of {size}": Row("BLEU, validation", "the best", _teacher(size), stages=TRAINED) for size in TEACHERS
    }
    rows |= {
        f"a student of {name} in int8": Row(
            "BLEU, test",
            "its teacher",
            _student(name),
            overrides=(*told, INT8),
            facts=("kept_on_validation", "bytes", "chosen"),
        )
        for name, told in STUDENTS.items()
    }
    rows["winner: what it keeps"] = Row("BLEU, test", "its teacher", _bleu, KEEPS)
    rows["winner: how much smaller"] = Row("bundles in 1 MB", "its teacher", _bytes, SMALLER)
    for shape, how in ((ONE, "one prompt"), (MANY, f"{MANY[0]} prompts at once")):
        rows[f"winner: {how}"] = Row("tokens/s", EAGER, _speed(TEACHER, shape), FASTER[shape])
        rows[f"winner: {how}, against the engine"] = Row("tokens/s", ENGINE, _speed(FLOAT, shape))
    return rows


class Streamed:
    """The winner as a service, asked in turns by several clients and by one; kept for both rows."""

    def __init__(self) -> None:
        self._found: list[tuple[Read, Read]] = []

    def tokens(self, decoders: Decoders, _: int) -> Found:
        """Tokens a second."""
        return self._turns(decoders, "tokens_per_second")

    def first(self, decoders: Decoders, _: int) -> Found:
        """Waits for the first token, of one among several and of one alone."""
        return self._turns(decoders, "first_token_ms")

    def _turns(self, decoders: Decoders, figure: str) -> Found:
        pairs = self._of(decoders)
        return Turns(*([getattr(each, figure) for each in side] for side in zip(*pairs, strict=True))).point()

    def _of(self, decoders: Decoders) -> list[tuple[Read, Read]]:
        if not self._found:
            runs, bundle = decoders.runs(decoders.teacher), decoders.file(decoders.winner)
            texts = list(dict.fromkeys(joined(input_of(row)) for row in rows(runs.recipe.data, "test")))
            prompts = random.Random(0).sample(texts, TEXTS)
            with service(decoders.state / "service", bundle) as server:
                for turn in range(RUNS + 1):
                    order = (CLIENTS, 1) if turn % 2 else (1, CLIENTS)
                    asked = {clients: read(server.url, prompts, clients, WRITTEN) for clients in order}
                    if turn:  # the first one warms up
                        self._found.append((asked[CLIENTS], asked[1]))
        return self._found


def _streams() -> dict[str, Row]:
    streamed = Streamed()
    return {
        f"{CLIENTS} streams": Row("tokens/s", "the same texts by one client", streamed.tokens, AT_ONCE, verb="deploy"),
        f"{CLIENTS} streams: the first token": Row("ms", "of one client alone", streamed.first, verb="deploy"),
    }


def _on_policy(decoders: Decoders, seed: int) -> Found:
    """Students with and without texts of their own."""
    own, none = (
        decoders.runs(decoders.teacher).measured("student", "reference", decoders.student(STUDENT, told, seed))
        for told in (OWN_TEXTS, ())
    )
    found = {"ours": own["bleu"], "peer": none["bleu"]}
    return found | {"ours_validation": own["validation_bleu"], "peer_validation": none["validation_bleu"]}


PARTS: dict[str, dict[str, Row]] = {
    "winner": _winner(),
    "streams": _streams(),
    "on_policy": {
        f"a student of {STUDENT}, {SHARE:.0%} of its texts its own": Row(
            "BLEU, test", "none", _on_policy, None, (*STUDENTS[STUDENT], *OWN_TEXTS), "distill", MADE[:-1], SEEDS
        )
    },
    "adapter": {
        f"an adapter: {what}": Row(
            unit, "all weights", lambda decoders, _, make=make: make(decoders), None, (ADAPTER,), "finetune", TRAINED
        )
        for what, unit, make in (("BLEU", "BLEU, test", adapted), ("memory", "MB at most in training", memory))
    },
}


def main() -> int:
    """All parts, or the chosen one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate")
    parser.add_argument("part", nargs="?", choices=PARTS)
    options(parser)
    asked = read_options(parser)
    data = os.environ.get("SLIMCART_DATA")
    with on_cluster(asked.state, asked.record and bool(data), asked.here) as state:
        record = Record("generate", state)
        decoders = Decoders(state, Path(data), asked.also) if data else None
        for part in [asked.part] if asked.part else PARTS:
            for name, row in PARTS[part].items():
                if asked.only.search(name):
                    point(f"{SET}: {name}", row, asked, record, decoders)
        record.land()
    return exit_code()


def point(name: str, row: Row, asked: argparse.Namespace, record: Record, decoders: Decoders | None) -> None:
    """Make the points of a row that are asked for and not there, and print it."""

    def make(_: str, seed: int) -> None:
        assert decoders
        with contextlib.redirect_stdout(sys.stderr):
            found = row.make(decoders, seed)
        record.add(name, seed, row.stages, decoders.command(row.verb, [*row.overrides, f"seed={seed}"]), found)

    seeds = [seed for seed in asked.seeds if seed in row.seeds]
    through([name], argparse.Namespace(**vars(asked) | {"seeds": seeds}), record, make if decoders else None)
    summarise(record, name, row.unit, row.bar, row.peer, row.facts)
    apart(record, [name])


if __name__ == "__main__":
    sys.exit(main())
