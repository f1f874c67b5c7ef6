"""The teacher's stored outputs for every prepared row, computed once, read by every student.

Of a classifier its logits; of a decoder the likeliest tokens at every place, with their log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.launch import WORKER_ENVIRONMENT
from configs.folder import commit, verify
from jobs.data.batches import NO_TARGET, collate, collate_packs
from jobs.data.prepared import MANIFEST, ROWS, Examples, Prepared, PreparedSplit, rows_of

if TYPE_CHECKING:
    import pyarrow
    import torch

ROWS_PER_BATCH = 64


def write_outputs(
    folder: Path,
    teacher: Path,
    prepared: Prepared,
    key: str,
    cpus: int,
    gpus: int = 0,
    stored_tokens: int | None = None,
) -> None:
    """Run the teacher over all prepared rows, sorted by length so that little is padding, with Ray Data.

    `stored_tokens`: of a decoder, how many tokens to keep for each place.
    """
    import ray.data

    def fill(aside: Path) -> dict[str, Any]:
        ray.data.read_parquet(str(prepared.folder / ROWS)).sort("length").map_batches(
            Teach if stored_tokens is None else TeachTokens,
            batch_format="pyarrow",
            batch_size=ROWS_PER_BATCH,
            fn_constructor_args=(str(teacher), cpus, *(() if stored_tokens is None else (stored_tokens,))),
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,  # holding cores, it could wait for ever for the reads, sorts and writes around it
            num_gpus=gpus,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ).write_parquet(str(aside / ROWS))
        return {"key": key, "rows": prepared.manifest["rows"]}

    commit(folder, MANIFEST, fill)


def read_logits(folder: Path, split: PreparedSplit) -> np.ndarray:
    """Logits float16 [N, C] in the order of the prepared rows; the folder's digests are checked."""
    verify(folder, MANIFEST)
    logits = rows_of(folder / ROWS, split)["logits"].combine_chunks()
    return logits.flatten().to_numpy(zero_copy_only=False).reshape(len(logits), -1)


@dataclass(frozen=True)
class TokenOutputs:
    """A decoder's K likeliest tokens at each of the P places where a token is to be generated."""

    ids_PK: np.ndarray  # int32
    log_probs_PK: np.ndarray  # float16
    offsets: np.ndarray  # [N + 1]: places of row i are offsets[i] to offsets[i + 1]

    @classmethod
    def read(cls, folder: Path, split: PreparedSplit) -> TokenOutputs:
        """In the order of the prepared rows; the folder's digests are checked."""
        verify(folder, MANIFEST)
        table = rows_of(folder / ROWS, split)
        ids, log_probs = table["ids"].combine_chunks(), table["log_probs"].combine_chunks()
        stored = ids.type.value_type.list_size
        return cls(
            ids.flatten().flatten().to_numpy().reshape(-1, stored),
            log_probs.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, stored),
            ids.offsets.to_numpy().astype(np.int64) - ids.offsets[0].as_py(),
        )

    def beside(self, target_BL: torch.Tensor, packs: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """`teacher_ids` and `teacher_log_probs` [B, L, K] of rows that hold `packs` of examples, zero elsewhere."""
        import torch

        shape = (*target_BL.shape, self.ids_PK.shape[1])
        ids, log_probs = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        wanted_BL = target_BL.numpy() != NO_TARGET
        for index, rows in enumerate(packs):
            places = np.concatenate([np.arange(*self.offsets[row : row + 2]) for row in rows.tolist()])
            ids[index, wanted_BL[index]] = self.ids_PK[places]
            log_probs[index, wanted_BL[index]] = self.log_probs_PK[places]
        return {"teacher_ids": torch.from_numpy(ids), "teacher_log_probs": torch.from_numpy(log_probs)}


class Teach:
    """Maps prepared rows to the teacher's logits; loads the teacher once in each Ray Data worker."""

    def __init__(self, teacher: str, threads: int) -> None:
        import torch

        from jobs.models.encoder import load

        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load(Path(teacher)).to(self.device)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """`split`, `row` and `logits` (C float16 numbers)."""
        import pyarrow
        import torch

        from jobs.models.encoder import INPUTS

        examples = Examples.from_table(table)
        batch = collate(examples, np.arange(len(examples)), int(examples.lengths.max()))
        with torch.inference_mode():
            logits_BC = self.model(**{name: batch[name].to(self.device) for name in INPUTS}).cpu().numpy()
        flat = pyarrow.array(logits_BC.astype(np.float16).ravel(), pyarrow.float16())
        return pyarrow.table(
            {
                "split": table["split"],
                "row": table["row"],
                "logits": pyarrow.FixedSizeListArray.from_arrays(flat, logits_BC.shape[1]),
            }
        )


class TeachTokens:
    """Maps prepared rows to a decoder's likeliest tokens; loads it once in each Ray Data worker."""

    def __init__(self, teacher: str, threads: int, stored: int) -> None:
        import torch

        from jobs.models.decoder import load

        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load(Path(teacher)).to(self.device)
        self.stored = min(stored, self.model.vocabulary)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """`split`, `row`, and for each place K `ids` (int32) and `log_probs` (float16), likeliest first."""
        import pyarrow
        import torch
        import torch.nn.functional as F

        from jobs.models.decoder import INPUTS

        examples = Examples.from_table(table)
        batch = collate_packs(examples, [np.array([row]) for row in range(len(examples))], int(examples.lengths.max()))
        wanted_BL = batch["target"] != NO_TARGET
        with torch.inference_mode():
            logits_BLV = self.model(**{name: batch[name].to(self.device) for name in INPUTS})
            best = F.log_softmax(logits_BLV[wanted_BL.to(self.device)].float(), dim=-1).topk(self.stored)
        places = np.concatenate([[0], wanted_BL.sum(1).cumsum(0).numpy()]).astype(np.int32)

        def listed(values: np.ndarray, kind: pyarrow.DataType) -> pyarrow.ListArray:
            each = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel(), kind), self.stored)
            return pyarrow.ListArray.from_arrays(pyarrow.array(places), each)

        return pyarrow.table(
            {
                "split": table["split"],
                "row": table["row"],
                "ids": listed(best.indices.cpu().numpy().astype(np.int32), pyarrow.int32()),
                "log_probs": listed(best.values.cpu().numpy().astype(np.float16), pyarrow.float16()),
            }
        )
