"""A place to compress in: a student of random weights, rows of random tokens under labels of its own making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from configs.folder import commit
from configs.schema.recipe import Recipe
from jobs.compression.logits import logits
from jobs.compression.step_context import StepContext
from jobs.data.feeds import take
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Examples, Prepared
from jobs.models.decoder import Decoder, complete
from jobs.models.encoder import EncoderClassifier
from jobs.models.reference import read_reference, write_reference
from tests.tiny.models import CLASSES, POSITIONS, VOCABULARY

END = 3  # ends a text
INPUTS = ("input_ids", "attention_mask")


class Alone(StepContext):
    """A workplace without a student's files: a step finds there what the test gives, and nothing else."""

    def __init__(self, **given: Any) -> None:
        self.facts = {}
        self.__dict__.update(given)


def examples(number: int, seed: int = 0) -> Examples:
    """Random tokens of 2 to 20 a row, all of label 0."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(2, 21, number)
    ids = chance.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Examples(ids, np.zeros(len(ids), np.int8), offsets, np.zeros(number, np.int64))


def labelled(given: Examples, model: nn.Module | Path) -> Examples:
    """The same rows under what a model, or a file, says of each."""
    rows = take(Examples(given.ids, given.types, given.offsets, np.arange(len(given))), INPUTS, 0, len(given))
    labels = np.empty(len(given), np.int64)
    labels[rows.labels] = logits(model, rows).argmax(1)
    return Examples(given.ids, given.types, given.offsets, labels)


def completed(model: Decoder, prompts: int) -> Examples:
    """Rows of which a decoder would choose each token after the prompt of four."""
    chance = np.random.default_rng(0)
    given = chance.integers(5, VOCABULARY, (prompts, 4)).tolist()
    texts = [[*ids, *rest] for ids, rest in zip(given, complete(model, given, 12, END), strict=True)]
    types = np.concatenate([np.arange(len(text)) >= 4 for text in texts]).astype(np.int8)
    offsets = np.cumsum([0, *map(len, texts)])
    return Examples(np.concatenate(texts).astype(np.int32), types, offsets, np.zeros(prompts, np.int64))


def workplace(
    folder: Path, student: EncoderClassifier | Decoder, train: Examples, validation: Examples, **recipe: Any
) -> StepContext:
    """All of it on disk below `folder`; `recipe` holds further fields of the recipe."""
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, "w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    labels = list("vwxyz"[:CLASSES]) if isinstance(student, EncoderClassifier) else []
    task = "classify" if labels else "generate"
    manifest = {"key": "k", "task": task, "labels": labels, "pairs": False, "max_length": POSITIONS, "end": END}

    def fill(aside: Path) -> dict[str, Any]:
        words.save(str(aside / TOKENIZER))
        (aside / ROWS).mkdir()
        for split, rows in {"train": train, "validation": validation}.items():
            pq.write_table(_table(split, rows), aside / ROWS / f"{split}.parquet")
        return manifest

    commit(folder / "prepared", MANIFEST, fill)
    prepared = Prepared.open(folder / "prepared")
    write_reference(folder / "student", student, prepared, "tiny", {}, {})
    between = folder / "between"
    between.mkdir()
    made = Recipe.model_validate({"name": "tiny", "output": str(folder), **recipe})
    return StepContext(made, folder / "student", read_reference(folder / "student", ""), between)


def _table(split: str, rows: Examples) -> pa.Table:
    ids, types = (np.split(each, rows.offsets[1:-1]) for each in (rows.ids, rows.types))
    return pa.table(
        {
            "split": [split] * len(rows),
            "row": list(range(len(rows))),
            "input_ids": pa.array(ids, pa.list_(pa.int32())),
            "type_ids": pa.array(types, pa.list_(pa.int8())),
            "length": pa.array(rows.lengths, pa.int32()),
            "label": pa.array(rows.labels, pa.int32()),
        }
    )
