from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from configs.folder import commit
from configs.loader import UsageError
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import StudentSpec
from configs.schema.recipe import Recipe
from jobs.data.batches import NO_TARGET
from jobs.data.prepared import MANIFEST, ROWS, Prepared, PreparedSplit
from jobs.models import encoder
from jobs.models.layers import LayerSize, set_sizes
from jobs.tasks.classify.training import Classify
from jobs.training.loss import balanced_weights, distill_loss
from tests.tiny.models import CLASSES, config, encoder_classifier

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
        return {"key": folder.name, "task": "classify", "labels": [str(number) for number in range(CLASSES)]}

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


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """A folder of a teacher whose two layers differ in size: one head of 16, and two."""
    given = config("bert", 2)
    set_sizes(given, [LayerSize(1, 16, 40), LayerSize(2, 16, 8)])
    (tmp_path / "uneven").mkdir()
    encoder.save(encoder.from_config(given, "mean", CLASSES, 0.0), tmp_path / "uneven")
    return tmp_path / "uneven"


def test_layers_of_different_size_are_not_split(taught: Classify, uneven: Path):
    recipe = Recipe.model_validate({"name": "tiny", "student": {"layers": 2}, "engine": {"workers": 2}})
    assert taught.student(uneven, recipe)
    split = recipe.model_copy(update={"engine": EngineSpec(workers=2, tensor_parallel=2)})
    with pytest.raises(UsageError, match=r"engine.tensor_parallel: 2: layers of different size .*; use 1"):
        taught.student(uneven, split)


def test_relations_are_cut_into_parts_of_the_width_of_their_own_layer(taught: Classify, uneven: Path):
    asked = {"weights": {"relations": 1}, "relation_heads": 32, "relation_layer": 2}
    recipe = Recipe.model_validate({"name": "tiny", "student": {"layers": [1]}, "distillation": asked})
    assert taught.student(uneven, recipe)  # two heads of 16 in the teacher's layer and in the student's
    narrower = recipe.model_copy(update={"student": StudentSpec(layers=1)})
    with pytest.raises(UsageError, match=r"distillation.relation_heads: 32: does not divide a width of 16"):
        taught.student(uneven, narrower)
