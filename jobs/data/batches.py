"""Global batches by length, their split over ranks, and tensors out of them.

The global batches of an epoch depend on the data, the seed, the epoch and the token budget alone. However many
workers share them, the same rows meet in the same optimizer step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jobs.data.prepared import Examples
from serving.runtime import cut

if TYPE_CHECKING:
    import torch

WINDOW_BATCHES = 64  # batches' worth of shuffled rows that are sorted by length together


def global_batches(lengths: np.ndarray, seed: int, epoch: int, tokens_per_batch: int) -> list[np.ndarray]:
    """Row numbers of every global batch of an epoch, in training order.

    Rows are shuffled, sorted by length inside windows, cut so that rows x longest <= `tokens_per_batch` (a single
    longer row is a batch of its own), and the batches shuffled.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths))
    mean = max(1.0, float(lengths.mean()))
    window = max(1, int(WINDOW_BATCHES * tokens_per_batch / mean))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        batches += [rows[chosen] for chosen in cut(lengths[rows].tolist(), tokens_per_batch)]
    return [batches[index] for index in generator.permutation(len(batches))]


def shard(batch: np.ndarray, rank: int, world: int, parts: int) -> list[np.ndarray]:
    """Rank's rows of a global batch as `parts` micro-batches; some may be empty where the batch is small."""
    return [batch[rank * parts + part :: world * parts] for part in range(parts)]


def collate(examples: Examples, rows: np.ndarray, length: int, count: int = 1) -> dict[str, torch.Tensor]:
    """Tensors of some rows, padded to `length`: input_ids_BL, attention_mask_BL, token_type_ids_BL, label_B, weight_B.

    Blank rows of weight 0 fill them up to `count`, so that every rank can take part in every step.
    """
    import torch

    count = max(count, len(rows))
    ids = np.zeros((count, length), dtype=np.int64)
    types = np.zeros((count, length), dtype=np.int64)
    mask = np.zeros((count, length), dtype=np.int64)
    mask[:, 0] = 1
    for index, row in enumerate(rows):
        start, end = examples.offsets[row], examples.offsets[row + 1]
        ids[index, : end - start] = examples.ids[start:end]
        types[index, : end - start] = examples.types[start:end]
        mask[index, : end - start] = 1
    labels = np.zeros(count, dtype=np.int64)
    labels[: len(rows)] = examples.labels[rows]
    weight = (np.arange(count) < len(rows)).astype(np.float32)
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "label": labels, "weight": weight}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
