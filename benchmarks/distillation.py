"""Distillation: what stored teacher outputs save, and how good students get. Both cores.

    SLIMCART_DATA=<folder> python -m benchmarks.distillation [speed|quality] [--record [--anew]] [--seeds N ...]
        [--only PATTERN] [--state FOLDER] [--here] [--also FIELD=VALUE ...]

Speed: students of the packaged MiniLM learn from rows of intent_banking77; the peer asks the teacher anew for every
batch. The figure is epochs per hour. By the law of the store an epoch is (t + s) / s times faster, with t the teacher's
pass over the rows and s the student's epoch, both measured just before; ours is divided by what the law gives.

Quality: what each student keeps of its teacher, by jobs on a local cluster of their own; three seeds, recorded in
benchmarks/results/distillation.jsonl and replayed. --record makes, of the chosen seeds, the points that are not
recorded or are void, as a stage that made them has changed since (hours: --only chooses rows by a regular expression),
and goes on where it was interrupted; with --anew all. --state keeps cluster, teachers, logs and the points until they
are all made; --here uses the cluster that the shell knows; --also overrides the recipes (`engine.use_gpu=true`), which
a point's command tells.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._compare import compare, exit_code, missing, seconds
from benchmarks._process import alone
from benchmarks._recorded import on_cluster, options, read_options
from benchmarks._students import quality
from benchmarks.training import MIXED, Rows
from cluster.engine import Engine
from configs.schema.distillation import DistillationSpec
from configs.schema.models import StudentSpec, TeacherSpec
from jobs.data.batches import collate
from jobs.models import encoder
from jobs.models.attention import choose_attention
from jobs.models.encoder import EncoderClassifier
from jobs.models.student import encoder_student
from jobs.training.loss import distill_loss

SET, ROWS = "intent_banking77", 1024
LAYERS = (3, 2, 1)
TRIALS = 5
SHARE_OF_THE_LAW, ONE_LAYER = 0.9, 2.0
UNIT, PEER = "epochs/h", f"the teacher asked for every batch, torch {torch.__version__}"


class Lesson:
    """A student in training; each call is an epoch."""

    def __init__(self, data: Rows, teacher: EncoderClassifier, layers: int) -> None:
        torch.manual_seed(0)
        self.data, self.teacher = data, teacher
        self.batches = [
            collate(data.examples, rows, length) | {"rows": torch.from_numpy(rows)} for rows, length in data.by_tokens()
        ]
        self.stored_NC: Tensor | None = None
        spec = DistillationSpec()
        student = encoder_student(teacher, StudentSpec(layers=layers))
        choose_attention(student, MIXED)
        self.engine = Engine(
            student,
            encoder.INPUTS,
            lambda logits_BC, batch: distill_loss(logits_BC, batch["teacher_logits"], batch["label"], spec),
            lambda named: torch.optim.AdamW([weight for _, weight in named], lr=1e-5, fused=True),
            lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
            MIXED,
        )

    def ask(self, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's logits [B, C], in the precision in which it was trained."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return self.teacher(**{name: batch[name] for name in encoder.INPUTS}).float()

    def teach(self) -> None:
        """Ask the teacher for all rows and keep what it says."""
        stored_NC = torch.empty(len(self.data.examples), len(self.data.labels), dtype=torch.float16)
        for batch in self.batches:
            stored_NC[batch["rows"]] = self.ask(batch).half()
        self.stored_NC = stored_NC

    def epoch(self, online: bool) -> None:
        """One pass of the student."""
        self.engine.module.train()
        for batch in self.batches:
            if online:
                logits_BC = self.ask(batch).clone()
            else:
                assert self.stored_NC is not None
                logits_BC = self.stored_NC[batch["rows"]].float()
            self.engine.step([batch | {"teacher_logits": logits_BC}], len(batch["rows"]))


def main() -> int:
    """Measure all rows, or the chosen ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation")
    parser.add_argument("kind", nargs="?", choices=("speed", "quality"))
    options(parser)
    asked = read_options(parser)
    folder = os.environ.get("SLIMCART_DATA")
    if asked.kind is None:
        return max(_apart(kind, *sys.argv[1:]) for kind in ("quality", "speed"))
    if asked.kind == "quality":
        with on_cluster(asked.state, asked.record, asked.here) as state:
            quality(state, folder, asked)
    else:
        alone("benchmarks.distillation", "speed")
        speed(folder)
    return exit_code()


def _apart(kind: str, *arguments: str) -> int:
    """The exit code of one kind, in a process of its own: they want different environments."""
    return subprocess.run([sys.executable, "-m", "benchmarks.distillation", kind, *arguments], check=False).returncode


def speed(folder: str | None) -> None:
    """Stored against online teacher."""
    named = {layers: f"a student of {layers} of 6 layers: stored / online teacher" for layers in LAYERS}
    search = f"{TRIALS} trials of one epoch, students of 2 layers: with / without the store"
    if not folder:
        for row in (*(_by_law(name) for name in (*named.values(), search)), named[1]):
            missing(row, UNIT, "SLIMCART_DATA is not set", ONE_LAYER if row == named[1] else SHARE_OF_THE_LAW)
        return
    data = Rows(Path(folder), SET, ROWS)
    teacher = encoder.pretrained(TeacherSpec(), data.labels).eval()
    choose_attention(teacher, MIXED)
    for layers, name in named.items():
        lesson = Lesson(data, teacher, layers)
        t, s = measured(lesson)
        law = (t + s) / s
        versus(_by_law(name), lesson, 1, SHARE_OF_THE_LAW, law)
        if layers == 1:
            versus(name, lesson, 1, ONE_LAYER)
        if layers == 2:
            law = TRIALS * (t + s) / (t + TRIALS * s)
            versus(_by_law(search), lesson, TRIALS, SHARE_OF_THE_LAW, law)


def _by_law(name: str) -> str:
    return f"{name}, divided by the law"


def versus(name: str, lesson: Lesson, epochs: int, bar: float, law: float = 1.0) -> None:
    """Epochs an hour with the store, whose making counts where there are several epochs, by `law`, against none."""

    def rate(online: bool) -> float:
        def work() -> None:
            if epochs > 1 and not online:
                lesson.teach()
            for _ in range(epochs):
                lesson.epoch(online)

        return 3600 * epochs / seconds(work)

    runs = 7 if epochs == 1 else 3
    compare(name, UNIT, lambda: rate(online=False) / law, lambda: rate(online=True), PEER, bar, runs)


def measured(lesson: Lesson) -> tuple[float, float]:
    """Seconds of the teacher's pass and of the student's epoch, medians of three after a warm one."""
    lesson.teach()
    lesson.epoch(online=False)
    times = [(seconds(lesson.teach), seconds(lambda: lesson.epoch(online=False))) for _ in range(3)]
    t, s = np.median(np.array(times), axis=0)
    return float(t), float(s)


if __name__ == "__main__":
    sys.exit(main())
