"""The teacher's stored outputs for every prepared row, computed once, read by every student.

A classifier's outputs are its logits and, where an objective needs them, hidden states; a decoder's are the likeliest
tokens at every place, with their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.folder import verify
from jobs.data.batches import NO_TARGET
from jobs.data.prepared import MANIFEST, ROWS, PreparedSplit, joined_offsets, rows_of

if TYPE_CHECKING:
    import pyarrow
    import torch


def hidden_column(layer: int) -> str:
    """Column of the token vectors after a layer, counted from 1."""
    return f"hidden_{layer}"


def relations_column(layer: int) -> str:
    """Column of the queries, keys and values in a layer, side by side."""
    return f"relations_{layer}"


def read_logits(folder: Path, split: PreparedSplit) -> np.ndarray:
    """Logits float16 [N, C] in the order of the prepared rows; the folder's digests are checked."""
    verify(folder, MANIFEST)
    logits = rows_of(folder / ROWS, split)["logits"].combine_chunks()
    return logits.flatten().to_numpy(zero_copy_only=False).reshape(len(logits), -1)


def read_answers(folder: Path, split: PreparedSplit) -> list[list[int]]:
    """Token ids of the texts that a decoder wrote for the prepared rows, in their order; the folder's digests are
    checked."""
    verify(folder, MANIFEST)
    return rows_of(folder / ROWS, split, ["answer"])["answer"].to_pylist()


@dataclass(frozen=True)
class Vectors:
    """One vector, of float16 or int32, for every place of N rows."""

    values_PD: np.ndarray
    offsets: np.ndarray  # [N + 1]: places of row i are offsets[i] to offsets[i + 1]

    @classmethod
    def of(cls, column: pyarrow.ChunkedArray) -> Vectors:
        """The vectors in a column of lists of vectors."""
        lists = column.combine_chunks()
        values = lists.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, lists.type.value_type.list_size)
        return cls(values, lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py())

    @classmethod
    def read(cls, folder: Path, split: PreparedSplit, names: Sequence[str]) -> list[Vectors]:
        """The columns `names`, in the order of the prepared rows; a name may repeat. Checks the folder's digests."""
        verify(folder, MANIFEST)
        table = rows_of(folder / ROWS, split, sorted(set(names)))
        vectors = {name: cls.of(table[name]) for name in table.column_names if name != "row"}
        return [vectors[name] for name in names]

    @classmethod
    def joined(cls, *parts: Vectors) -> Vectors:
        """The vectors of all parts, one part after the other."""
        values_PD = np.concatenate([part.values_PD for part in parts])
        return cls(values_PD, joined_offsets([part.offsets for part in parts]))

    def padded(self, rows: np.ndarray, length: int, count: int) -> np.ndarray:
        """The vectors of some rows, [count, length, D]; zero where there is no token or no row."""
        padded = np.zeros((count, length, self.values_PD.shape[1]), dtype=self.values_PD.dtype)
        for index, row in enumerate(rows):
            places = self.values_PD[slice(*self.offsets[row : row + 2])]
            padded[index, : len(places)] = places
        return padded


@dataclass(frozen=True)
class TokenOutputs:
    """A decoder's likeliest and drawn tokens, K in all, at each place where a token is to be generated."""

    ids: Vectors  # int32
    log_probs: Vectors  # float16

    def __len__(self) -> int:
        return len(self.ids.offsets) - 1

    @classmethod
    def read(cls, folder: Path, split: PreparedSplit) -> TokenOutputs:
        """Outputs in the order of the prepared rows; the folder's digests are checked."""
        return cls(*Vectors.read(folder, split, ["ids", "log_probs"]))

    def beside(self, target_BL: torch.Tensor, packs: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """`teacher_ids` and `teacher_log_probs` [B, L, K] of rows with `packs` of examples, zero where no target is."""
        import torch

        shape = (*target_BL.shape, self.ids.values_PD.shape[1])
        ids, log_probs = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        wanted_BL = target_BL.numpy() != NO_TARGET
        for index, rows in enumerate(packs):
            places = np.concatenate([np.arange(*self.ids.offsets[row : row + 2]) for row in rows.tolist()])
            ids[index, wanted_BL[index]] = self.ids.values_PD[places]
            log_probs[index, wanted_BL[index]] = self.log_probs.values_PD[places]
        return {"teacher_ids": torch.from_numpy(ids), "teacher_log_probs": torch.from_numpy(log_probs)}
