"""Checkpoints of a training run: written aside by all workers, committed by one, verified before use."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch.distributed

from cluster.engine import Engine
from configs.folder import FolderError, commit, verify

MANIFEST = "MANIFEST.json"
KEPT = 2

log = logging.getLogger(__name__)


def save(engine: Engine, folder: Path, epoch: int, progress: dict[str, Any]) -> None:
    """Commit `folder/epoch-<n>` from every worker's share; the two newest are kept. All workers call it."""
    first = torch.distributed.get_rank() == 0
    shares = folder / f".epoch-{epoch:04d}.shares"  # one name for all workers, on the same file system
    if first:
        shutil.rmtree(shares, ignore_errors=True)
        shares.mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)  # DeepSpeed's files hold pickles: nobody else may write or read them
    torch.distributed.barrier()
    engine.save(shares, progress)
    torch.distributed.barrier()
    if first:

        def fill(aside: Path) -> dict[str, Any]:
            for path in shares.iterdir():
                path.rename(aside / path.name)
            return {"epoch": epoch}

        commit(folder / f"epoch-{epoch:04d}", MANIFEST, fill)
        shutil.rmtree(shares)
        for old in _committed(folder)[:-KEPT]:
            shutil.rmtree(old)
    torch.distributed.barrier()


def restore(engine: Engine, folder: Path) -> dict[str, Any] | None:
    """Take up the newest checkpoint whose digests hold; None where there never was one. All workers call it.

    Raises `FolderError` when there are checkpoints and none is whole: starting over would lose work silently.
    """
    reasons = []
    for candidate in reversed(_committed(folder)):
        try:
            verify(candidate, MANIFEST)
        except FolderError as error:
            log.warning("checkpoint set aside: %s", error)
            reasons.append(str(error))
            continue
        return engine.load(candidate)
    if reasons:
        raise FolderError(f"no checkpoint below {folder} is whole: {reasons[0]}; remove the folder to start over")
    return None


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))
