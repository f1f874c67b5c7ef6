"""A student, the rows it learned from and what a teacher says of them, for compression steps that look around."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.folder import commit
from configs.schema.recipe import Recipe
from jobs.compression.step_context import StepContext
from jobs.data.prepared import MANIFEST, ROWS, Examples
from jobs.models import encoder
from jobs.models.reference import read_reference, write_reference
from tests.tiny.shop import CHOSEN, write_encoder, write_locally, write_rows
from tests.tiny.ways import prepare

LONGEST = 24


def workplace(folder: Path, layers: int = 1) -> StepContext:
    """Of a BERT of random weights, 32 wide, and rows of five intents, cut to `LONGEST` tokens."""
    write_rows(folder)
    model = str(write_encoder(folder / "encoder", layers))
    splits = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "output": str(folder),
            "data": splits | {"max_length": LONGEST},
            "teacher": {"model": model},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.data.tokenise.write_shards", write_locally)
        prepared = prepare(recipe)
    student = encoder.from_pretrained(model, "mean", len(CHOSEN), 0.0)
    write_reference(folder / "student", student, prepared, "tiny", {}, {})
    (folder / "between").mkdir()
    reference = read_reference(folder / "student", "python -m jobs.distill")
    return StepContext(recipe, folder / "student", reference, folder / "between")


def write_logits(folder: Path, logits_NC: np.ndarray, **manifest: Any) -> None:
    """What a teacher says of the training rows; `manifest` says whose words they are."""

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        values = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.astype(np.float16).ravel()), logits_NC.shape[1])
        rows = pa.table({"split": ["train"] * len(logits_NC), "row": range(len(logits_NC)), "logits": values})
        pq.write_table(rows, aside / ROWS / "0.parquet")
        return {"key": "logits"} | manifest

    commit(folder, MANIFEST, fill)


def write_tokens(folder: Path, rows: Examples, vocabulary: int, stored: int = 8) -> None:
    """What a teacher, a decoder, says of the training `rows`: random tokens at each place, half of the probability."""
    chance, places = np.random.default_rng(0), rows.targets
    ids = np.stack([chance.permutation(vocabulary)[:stored] for _ in range(places.sum())]).astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(places)]).astype(np.int32))
    columns = {"ids": ids, "log_probs": np.full(ids.shape, np.log(0.5 / stored), np.float16)}

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        lists = {
            name: pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(pa.array(each.ravel()), stored))
            for name, each in columns.items()
        }
        table = pa.table({"split": ["train"] * len(rows), "row": range(len(rows)), **lists})
        pq.write_table(table, aside / ROWS / "0.parquet")
        return {"key": "tokens"}

    commit(folder, MANIFEST, fill)
