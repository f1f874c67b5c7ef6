"""Training steps: what batches by tokens, mixed precision, the choice of attention and a smaller token table gain.

    SLIMCART_DATA=<folder> python -m benchmarks.training [intent_banking77] [review_rating_en]

Fine-tunes the packaged MiniLM on rows of intent_banking77 and review_rating_en, each side with a model of its own, in
turns, in one process on both cores; the figure is rows per second over the same rows. Without a name all are measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._compare import compare, exit_code, missing, seconds
from benchmarks._process import alone
from cluster.engine import Engine
from configs.schema.data import DataSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import StudentSpec, TeacherSpec
from jobs.data.batches import collate, global_batches, shard
from jobs.data.prepared import Examples
from jobs.data.tokenise import checked, classes, tokenise_classes
from jobs.models import encoder, loading
from jobs.models.attention import choose_attention
from jobs.models.stages import encoder_layers
from jobs.models.student import encoder_student
from jobs.training.tokens import UsedTokens

BAR_MIXED, BAR_ATTENTION, BAR_USED = 1.3, 1.1, 1.2
LAYERS = 2
MIXED, WHOLE = (EngineSpec(precision=precision, zero_stage=0) for precision in ("bf16_autocast", "fp32"))


class Set(NamedTuple):
    """A data set and how it is trained on."""

    text: str
    label: str
    longest: int  # tokens that the peer pads to
    tokens_per_batch: int
    rows: int  # of a round
    bar_padded: float  # against padding to `longest`
    bar_random: float  # against padding per random batch


SETS = {
    "intent_banking77": Set("text", "label", 64, 512, 256, 2.5, 1.15),
    "review_rating_en": Set("text", "recommended", 256, 2048, 64, 2.0, 1.15),
}


class Rows:
    """Some rows of a set, tokenised, and three ways to cut them into batches of (rows, padded length)."""

    def __init__(self, folder: Path, name: str, rows: int | None = None) -> None:
        self.set = SETS[name]
        data = DataSpec(train=str(folder / name / "train.jsonl.gz"), text=self.set.text, label=self.set.label)
        table, _ = checked(data, "train")
        self.labels = classes(table, {}, data)
        tokenizer = loading.load_tokenizer(TeacherSpec().model)
        tokenizer.enable_truncation(self.set.longest)
        chosen = np.random.default_rng(0).choice(len(table), rows or self.set.rows, replace=False)
        self.all, self.examples = (
            Examples.from_table(tokenise_classes(some, tokenizer.to_str(), self.labels))
            for some in (table, table.take(chosen))
        )

    def by_tokens(self, tokens_per_batch: int | None = None) -> list[tuple[np.ndarray, int]]:
        """What slimcart does."""
        lengths = self.examples.lengths
        batches = global_batches(lengths, 0, 0, tokens_per_batch or self.set.tokens_per_batch)
        return [(batch, int(lengths[batch].max())) for batch in batches]

    def at_random(self, pad_to: int | None = None) -> list[tuple[np.ndarray, int]]:
        """Equally many rows in each batch, as many batches as by tokens; padded to `pad_to`, else to the longest."""
        lengths = self.examples.lengths
        order = np.random.default_rng(1).permutation(len(lengths))
        parts = np.array_split(order, len(self.by_tokens()))
        return [(part, pad_to or int(lengths[part].max())) for part in parts]


class Side:
    """A model under training; each call trains over all batches and returns rows per second."""

    def __init__(
        self,
        data: Rows,
        batches: list[tuple[np.ndarray, int]],
        spec: EngineSpec = MIXED,
        fused: bool = False,
        layers: int | None = None,
        whole_table: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.examples, self.batches, self.parts = data.examples, batches, spec.accumulation
        model = encoder.pretrained(TeacherSpec(), data.labels)
        if layers:
            model = encoder_student(model, StudentSpec(layers=layers))
        if not whole_table:
            self.examples = UsedTokens(model, data.all).renumbered(data.examples)
        if not fused:
            choose_attention(model, spec)
        self.engine = Engine(
            model,
            encoder.INPUTS,
            lambda logits_BC, batch: F.cross_entropy(logits_BC.float(), batch["label"], reduction="none"),
            lambda named: torch.optim.AdamW([weight for _, weight in named], lr=1e-5, fused=True),
            lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
            spec,
            encoder_layers,
        )

    def __call__(self) -> float:
        return sum(len(rows) for rows, _ in self.batches) / seconds(self._epoch)

    def _epoch(self) -> None:
        engine, examples = self.engine, self.examples
        engine.module.train()
        for batch, length in self.batches:
            count = -(-len(batch) // (engine.data_size * self.parts))
            shares = shard(batch, engine.data_rank, engine.data_size, self.parts)
            engine.step([collate(examples, rows, length, count) for rows in shares], len(batch))


def main(chosen: list[str]) -> int:
    """Measure the rows of all sets, or of the chosen ones."""
    alone("benchmarks.training", *chosen)
    folder, unit = os.environ.get("SLIMCART_DATA"), "rows/s"
    for name, each in SETS.items():
        if chosen and name not in chosen:
            continue
        names = [
            f"{name}: batches by tokens / random batches, {how}" for how in (f"padded to {each.longest}", "padded each")
        ]
        mixed = f"{name}: bf16 autocast / fp32"
        fused = f"{name}: attention by matrix products / fused"
        used = f"{name}: a student of {LAYERS} layers, used tokens of the table / all of them"
        if not folder:
            bars = (each.bar_padded, each.bar_random, BAR_MIXED, BAR_ATTENTION, BAR_USED)
            for row, bar in zip([*names, mixed, fused, used], bars, strict=True):
                missing(row, unit, "SLIMCART_DATA is not set", bar)
            continue
        data, peer = Rows(Path(folder), name), f"the same loop, torch {torch.__version__}"
        ours = Side(data, data.by_tokens())
        compare(names[0], unit, ours, Side(data, data.at_random(each.longest)), peer, each.bar_padded)
        compare(names[1], unit, ours, Side(data, data.at_random()), peer, each.bar_random)
        compare(mixed, unit, ours, Side(data, data.by_tokens(), WHOLE), peer, BAR_MIXED)
        compare(fused, unit, ours, Side(data, data.by_tokens(), fused=True), peer, BAR_ATTENTION)
        small, whole = (Side(data, data.by_tokens(), layers=LAYERS, whole_table=whole) for whole in (False, True))
        compare(used, unit, small, whole, peer, BAR_USED)
    return exit_code()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
