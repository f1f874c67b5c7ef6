"""Checkpoints of a training run: written aside by all workers, committed by one, verified before use.

They stay private to the run that wrote them: DeepSpeed's files hold pickles, and loading one runs its author's code.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed

from cluster.engine import Engine
from cluster.session import JobError
from configs.folder import GOES_ON, FolderError, commit, no_room, verify

MANIFEST = "MANIFEST.json"
KEPT = 2
SET_ASIDE = "set-aside"  # folder of damaged checkpoints

log = logging.getLogger(__name__)


def save(engine: Engine, folder: Path, epoch: int, progress: dict[str, Any], batch: int = 0) -> None:
    """Commit a checkpoint from every worker's share; the two newest are kept. All workers call it.

    It is `folder/epoch-<n>` after n whole epochs, `folder/epoch-<n>-batch-<m>` after m batches more. Raises `JobError`
    on every worker where the disk has no room; earlier checkpoints stay.
    """
    first = torch.distributed.get_rank() == 0
    name = f"epoch-{epoch:04d}" + (f"-batch-{batch:07d}" if batch else "")  # in the order of their making
    shares = folder / f".{name}.shares"  # one name for all workers, on the same file system

    def begin() -> None:
        for left in folder.glob(".epoch-*"):  # left by workers that were killed
            shutil.rmtree(left, ignore_errors=True)
        _check_room(folder)
        shares.mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)

    def end() -> None:
        def fill(aside: Path) -> dict[str, Any]:
            for path in shares.iterdir():
                path.rename(aside / path.name)
            return {"epoch": epoch, "batch": batch, "workers": torch.distributed.get_world_size()}

        commit(folder / name, MANIFEST, fill)
        shutil.rmtree(shares)
        for old in _committed(folder)[:-KEPT]:
            shutil.rmtree(old)

    try:
        _first_does(begin)
        try:
            engine.save(shares, progress)
        except (OSError, RuntimeError) as error:  # torch's writer says of a full disk only that it could not write
            if not (reason := no_room(error, shares)):
                raise  # such as a worker that was killed: the group starts again
            raise JobError(f"checkpoint: {shares}: not written: {reason}; {GOES_ON}") from error
        torch.distributed.barrier()
        _first_does(end)
    except (JobError, FolderError):
        if first:
            shutil.rmtree(shares, ignore_errors=True)
        raise


def restore(engine: Engine, folder: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint whose digests hold; None where there never was one. All workers call it.

    Damaged checkpoints are moved to `folder/set-aside`. Raises `FolderError` where there are checkpoints and none is
    whole: starting over would lose work silently.
    """
    chosen = _first_does(lambda: _newest_whole(folder))
    return None if chosen is None else engine.load(folder / chosen)


def _newest_whole(folder: Path) -> str | None:
    reasons = [f"{path}: damaged" for path in sorted((folder / SET_ASIDE).glob("epoch-*"))]
    for candidate in reversed(_committed(folder)):
        try:
            verify(candidate, MANIFEST)
        except FolderError as error:
            log.warning("checkpoint set aside: %s", error)
            reasons.insert(0, str(error))
            aside = folder / SET_ASIDE / candidate.name
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            candidate.rename(aside)
            continue
        return candidate.name
    if reasons:
        raise FolderError(f"no checkpoint below {folder} is whole: {reasons[0]}; remove the folder to start over")
    return None


def _check_room(folder: Path) -> None:
    """Raise `JobError` where the next checkpoint, as large as the last one, would fill the disk."""
    if not (before := _committed(folder)):
        return
    needed = 2 * sum(path.stat().st_size for path in before[-1].rglob("*") if path.is_file())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise JobError(
            f"checkpoint: {folder}: {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed (twice the last one); "
            f"{GOES_ON}"
        )


def _first_does(work: Callable[[], Any]) -> Any:
    """Do `work` in the first worker; all workers get its result, or raise its `JobError` or `FolderError`."""
    answer: list[Any] = [None, None, None]  # its result; type and text of its error
    if torch.distributed.get_rank() == 0:
        try:
            answer[0] = work()
        except (JobError, FolderError) as error:
            answer[1:] = [type(error), str(error)]
        except OSError as error:
            answer[1:] = [JobError, f"checkpoint: {error.filename}: {error.strerror}"]
    torch.distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1](answer[2])
    return answer[0]


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))
