"""The teacher's stored outputs: logits of every prepared row, computed once, read by every student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.launch import WORKER_ENVIRONMENT
from configs.folder import commit, verify
from jobs.data.batches import collate
from jobs.data.prepared import MANIFEST, ROWS, Examples, Prepared, PreparedSplit, rows_of

if TYPE_CHECKING:
    import pyarrow

ROWS_PER_BATCH = 64


def write_outputs(folder: Path, teacher: Path, prepared: Prepared, key: str, cpus: int, gpus: int = 0) -> None:
    """Run the teacher over all prepared rows, sorted by length so that little is padding, with Ray Data."""
    import ray.data

    def fill(aside: Path) -> dict[str, Any]:
        ray.data.read_parquet(str(prepared.folder / ROWS)).sort("length").map_batches(
            Teach,
            batch_format="pyarrow",
            batch_size=ROWS_PER_BATCH,
            fn_constructor_args=(str(teacher), cpus),
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,  # holding cores, it could wait for ever for the reads, sorts and writes around it
            num_gpus=gpus,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ).write_parquet(str(aside / ROWS))
        return {"key": key, "rows": prepared.manifest["rows"]}

    commit(folder, MANIFEST, fill)


def read_outputs(folder: Path, split: PreparedSplit) -> np.ndarray:
    """Logits float16 [N, C] in the order of the prepared rows; the folder's digests are checked."""
    verify(folder, MANIFEST)
    logits = rows_of(folder / ROWS, split)["logits"].combine_chunks()
    return logits.flatten().to_numpy(zero_copy_only=False).reshape(len(logits), -1)


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
