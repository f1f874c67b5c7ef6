from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.spec import EngineSpec
from configs.folder import commit
from jobs.data.batches import NO_TARGET
from jobs.data.prepared import MANIFEST, ROWS, Prepared, PreparedSplit
from jobs.training.classify import Classify
from jobs.training.loss import balanced_weights, distill_loss
from jobs.training.spec import DistillationSpec
from tests.tiny_models import CLASSES, encoder_classifier

TRAIN, POOL = 30, 20
LABELS = [row % 3 for row in range(TRAIN)]
ENGINE = EngineSpec(tokens_per_batch=64)
VECTORS = {"hidden_1": 2, "hidden_2": 3, "relations_2": 4}  # how wide; real ones are all of one width


def vectors(rows: int, first_id: int, size: int) -> pa.Array:
    """Of each token one, `size` times its own number."""
    tokens = [[first_id + row] + [1] * (1 + row % 5) for row in range(rows)]
    made = [[[float(token)] * size for token in each] for each in tokens]
    return pa.array(made, pa.list_(pa.list_(pa.float16(), size)))


def write_rows(folder: Path, labels: dict[PreparedSplit, list[int]], first_id: int) -> None:
    """Rows of 2 to 6 tokens; the first of row n is `first_id` + n, and so are the logits of class 0."""
    tables = [
        pa.table(
            {
                "split": [split] * len(numbers),
                "row": range(len(numbers)),
                "input_ids": pa.array(
                    [[first_id + row] + [1] * (1 + row % 5) for row in range(len(numbers))], pa.list_(pa.int32())
                ),
                "type_ids": pa.array([[0] * (2 + row % 5) for row in range(len(numbers))], pa.list_(pa.int8())),
                "label": pa.array(numbers, pa.int32()),
                "logits": pa.array(
                    [[first_id + row] + [0.5] * (CLASSES - 1) for row in range(len(numbers))],
                    pa.list_(pa.float16(), CLASSES),
                ),
                **{name: vectors(len(numbers), first_id, size) for name, size in VECTORS.items()},
            }
        )
        for split, numbers in labels.items()
    ]

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(pa.concat_tables(tables), aside / ROWS / "0.parquet")
        return {"key": folder.name, "labels": [str(number) for number in range(CLASSES)]}

    commit(folder, MANIFEST, fill)


@pytest.fixture
def taught(tmp_path: Path) -> Classify:
    """Training rows, and a pool whose tokens start at 100; folders of rows hold the logits too."""
    write_rows(tmp_path / "prepared", {"train": LABELS, "validation": [0, 1]}, 10)
    write_rows(tmp_path / "pool", {"train": [NO_TARGET] * POOL}, 100)
    prepared = Prepared.open(tmp_path / "prepared", tmp_path / "pool")
    return Classify(prepared, tmp_path / "prepared", tmp_path / "pool")


def test_an_epoch_passes_over_training_rows_and_pool_whole(taught: Classify):
    assert len(taught.lengths) == TRAIN + POOL
    for epoch in range(2):
        batches = taught.epoch(0, epoch, ENGINE)
        assert sorted(np.concatenate(batches)) == list(range(TRAIN + POOL))


def test_batches_hold_what_the_teacher_says_beside_each_row_and_no_label_of_the_pools(taught: Classify):
    seen = []
    for rows in taught.epoch(0, 0, ENGINE):
        (batch,), size = taught.parts(rows, 0, 1, 1)
        assert size == len(rows)
        first = batch["input_ids"][:, 0]
        assert torch.equal(batch["teacher_logits"][:, 0], first.float())
        assert (batch["teacher_logits"][:, 1:] == 0.5).all()
        assert ((batch["label"] == NO_TARGET) == (first >= 100)).all()
        assert all(
            label == LABELS[token - 10] for label, token in zip(batch["label"], first, strict=True) if token < 100
        )
        seen += first.tolist()
    assert sorted(seen) == [*range(10, 10 + TRAIN), *range(100, 100 + POOL)]


@pytest.mark.parametrize(
    ("weights", "wide"),
    [
        ({"hidden": 1, "cosine": 1, "relations": 1}, {"teacher_hidden": 2 + 3, "teacher_relations": 4}),
        ({"cosine": 1}, {"teacher_hidden": 3}),
        ({"relations": 1}, {"teacher_relations": 4}),
    ],
)
def test_batches_hold_the_teachers_vectors_beside_the_tokens_of_rows_and_pool(
    taught: Classify, weights: dict[str, float], wide: dict[str, int]
):
    taught._read_vectors(DistillationSpec.model_validate({"hidden_layers": [1], "weights": weights}), 2)
    (batch,), _ = taught.parts(np.arange(TRAIN + POOL), 0, 1, 1)
    tokens_BL = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 0).half()
    assert {name for name in batch if name.startswith("teacher_")} == {"teacher_logits", *wide}
    for name, width in wide.items():
        assert torch.equal(batch[name], tokens_BL.unsqueeze(-1).expand(-1, -1, width))


def test_the_pool_changes_neither_class_weights_nor_what_a_labelled_row_costs(taught: Classify):
    spec = DistillationSpec.model_validate({"class_weights": "balanced", "label_smoothing": 0.1})
    loss = taught.loss(encoder_classifier(), spec)
    (batch,), _ = taught.parts(np.arange(TRAIN + POOL), 0, 1, 1)
    logits_BC = torch.randn(TRAIN + POOL, CLASSES, generator=torch.Generator().manual_seed(0))
    weight_C = balanced_weights(np.array(LABELS), CLASSES)
    alone_B = distill_loss(logits_BC[:TRAIN], batch["teacher_logits"][:TRAIN], torch.tensor(LABELS), spec, weight_C)
    torch.testing.assert_close(loss(logits_BC, batch)[:TRAIN], alone_B)


def test_a_teacher_learns_from_labelled_rows_alone(tmp_path: Path):
    write_rows(tmp_path / "prepared", {"train": LABELS, "validation": [0, 1]}, 10)
    assert len(Classify(Prepared.open(tmp_path / "prepared"), None).lengths) == TRAIN
