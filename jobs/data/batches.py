"""Global batches by length, their split over ranks, and their tensors.

The global batches of an epoch depend on the data, the seed, the epoch and the token budget alone: however many
workers share them, the same rows meet in the same optimizer step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jobs.data.prepared import Examples
from serving.inputs import cut

if TYPE_CHECKING:
    import torch

Rows = TypeVar("Rows", np.ndarray, list[np.ndarray])
NO_TARGET = -100  # torch's cross-entropy ignores it
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


def packed_batches(lengths: np.ndarray, seed: int, epoch: int, tokens_per_batch: int) -> list[np.ndarray]:
    """As `global_batches`, for rows to pack: cut in shuffled order by their own tokens, without padding."""
    order = np.random.default_rng((seed, epoch)).permutation(len(lengths))
    number = np.cumsum(lengths[order]) // tokens_per_batch
    return np.split(order, np.flatnonzero(np.diff(number)) + 1)


def pack(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Indices that share a row of at most `capacity` tokens, by first-fit decreasing (Johnson 1973)."""
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        length = int(lengths[index])
        place = next((each for each, left in enumerate(room) if left >= length), None)
        if place is None:
            packs.append([index])
            room.append(capacity - length)
        else:
            packs[place].append(index)
            room[place] -= length
    return packs


def shard(batch: Rows, rank: int, world: int, parts: int) -> list[Rows]:
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


def collate_packs(examples: Examples, packs: list[np.ndarray], length: int, count: int = 1) -> dict[str, torch.Tensor]:
    """Tensors of rows that hold several examples: input_ids_BL, position_ids_BL, target_BL, weight_B.

    Positions start anew with every example. The target of a token is the next token if that is to be generated, else
    `NO_TARGET`. Padding counts as examples of one token each; blank rows of weight 0 fill the batch up to `count`.
    """
    import torch

    count = max(count, len(packs))
    ids = np.zeros((count, length), dtype=np.int64)
    positions = np.zeros((count, length), dtype=np.int64)
    target = np.full((count, length), NO_TARGET, dtype=np.int64)
    for index, rows in enumerate(packs):
        at = 0
        for row in rows:
            start, end = examples.offsets[row], examples.offsets[row + 1]
            tokens, size = examples.ids[start:end], int(end - start)
            ids[index, at : at + size] = tokens
            positions[index, at : at + size] = np.arange(size)
            target[index, at : at + size - 1] = np.where(examples.types[start + 1 : end], tokens[1:], NO_TARGET)
            at += size
    weight = (np.arange(count) < len(packs)).astype(np.float32)
    arrays = {"input_ids": ids, "position_ids": positions, "target": target, "weight": weight}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
