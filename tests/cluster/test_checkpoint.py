from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed

from cluster import checkpoint
from cluster.session import JobError
from configs.folder import FolderError
from tests.faults.marks import fault

SHARDS = ("rank-0.bin", "rank-1.bin")


class Shards:
    """Stands where an engine stands: two files that must belong together."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        for number, name in enumerate(SHARDS):
            (folder / name).write_bytes(bytes([self.epoch, number]) * 500)
        (folder / "progress.json").write_text(json.dumps(progress))

    def load(self, folder: Path) -> dict[str, Any]:
        contents = [(folder / name).read_bytes() for name in SHARDS]
        progress = json.loads((folder / "progress.json").read_text())
        for number, content in enumerate(contents):
            assert content == bytes([progress["epoch"], number]) * 500, "half of something was loaded"
        return progress


def save(folder: Path, epoch: int) -> None:
    checkpoint.save(Shards(epoch), folder, epoch, {"epoch": epoch})  # pyright: ignore[reportArgumentType]


def restore(folder: Path) -> dict[str, Any] | None:
    return checkpoint.restore(Shards(), folder)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A group of one worker."""
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with the checkpoints of epochs 1 and 2."""
    for epoch in (1, 2):
        save(tmp_path / "run", epoch)
    return tmp_path / "run"


def edit(change: Callable[[bytes], bytes], name: str = SHARDS[0]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def swap(folder: Path) -> None:
    contents = [(folder / name).read_bytes() for name in SHARDS]
    for name, content in zip(SHARDS, reversed(contents), strict=True):
        (folder / name).write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": edit(lambda content: content[:400]),
    "one bit flipped": edit(lambda content: content[:123] + bytes([content[123] ^ 4]) + content[124:]),
    "zeroed tail": edit(lambda content: content[:500] + bytes(500)),
    "empty": edit(lambda content: b""),
    "missing shard": lambda folder: (folder / SHARDS[1]).unlink(),
    "swapped shards": swap,
    "shard of another epoch": lambda folder: shutil.copy(folder.with_name("epoch-0001") / SHARDS[0], folder),
    "manifest of another epoch": lambda folder: shutil.copy(
        folder.with_name("epoch-0001") / checkpoint.MANIFEST, folder
    ),
    "garbage in the manifest": edit(lambda content: b"\0garbage", checkpoint.MANIFEST),
    "no manifest": lambda folder: (folder / checkpoint.MANIFEST).unlink(),
    "a file more": lambda folder: (folder / "rank-2.bin").write_bytes(b"x"),
}


@fault("checkpoint damaged")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(two: Path, damage: str):
    DAMAGES[damage](two / "epoch-0002")
    assert restore(two) == {"epoch": 1}
    assert (two / checkpoint.SET_ASIDE / "epoch-0002").is_dir() and not (two / "epoch-0002").exists()
    save(two, 2)
    assert restore(two) == {"epoch": 2}


@fault("checkpoint damaged")
def test_without_the_digests_a_damaged_checkpoint_would_be_taken(two: Path, monkeypatch: pytest.MonkeyPatch):
    DAMAGES["one bit flipped"](two / "epoch-0002")
    monkeypatch.setattr(checkpoint, "verify", lambda folder, name: None)
    with pytest.raises(AssertionError, match="half of something"):
        restore(two)


@fault("checkpoint damaged")
def test_where_no_checkpoint_is_whole_the_run_ends_with_file_and_reason_every_time(two: Path):
    for epoch in ("epoch-0001", "epoch-0002"):
        DAMAGES["cut"](two / epoch)
    with pytest.raises(FolderError, match=r"no checkpoint below .* is whole: .*rank-0\.bin: 400 bytes"):
        restore(two)
    with pytest.raises(FolderError, match="no checkpoint below"):  # also once they are set aside
        restore(two)


def test_a_run_without_checkpoints_starts_from_the_beginning(tmp_path: Path):
    assert restore(tmp_path / "run") is None


@fault("disk full")
def test_a_checkpoint_that_would_fill_the_disk_is_not_begun(two: Path, monkeypatch: pytest.MonkeyPatch):
    size = sum(path.stat().st_size for path in (two / "epoch-0002").iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * size - 1))
    with pytest.raises(JobError, match=r"0 MB free, .* run the same command again"):
        save(two, 3)
    assert restore(two) == {"epoch": 2}
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * size))
    save(two, 3)
    assert restore(two) == {"epoch": 3}


@fault("disk full")
def test_a_disk_that_fills_up_in_between_leaves_the_checkpoint_before(two: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Shards, folder: Path, progress: dict[str, Any]) -> None:
        (folder / SHARDS[0]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shards, "save", full)
    with pytest.raises(JobError, match="not written: No space left on device; make room and run the same command"):
        save(two, 3)
    assert sorted(path.name for path in two.iterdir()) == ["epoch-0001", "epoch-0002"]
    assert restore(two) == {"epoch": 2}


@fault("disk full")
def test_a_disk_that_is_full_at_the_manifest_leaves_the_checkpoint_before(two: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("configs.folder.write_synced", full)
        with pytest.raises(FolderError, match=r"epoch-0003: not written: No space left on device; make room"):
            save(two, 3)
    assert sorted(path.name for path in two.iterdir()) == ["epoch-0001", "epoch-0002"]
    save(two, 3)
    assert restore(two) == {"epoch": 3}


def test_checkpoints_inside_an_epoch_stand_between_those_of_whole_epochs(two: Path):
    for batch in (90, 1000):
        checkpoint.save(Shards(2), two, 2, {"epoch": 2, "batch": batch}, batch)  # pyright: ignore[reportArgumentType]
    assert restore(two) == {"epoch": 2, "batch": 1000}
    save(two, 3)
    assert [path.name for path in sorted(two.iterdir())] == ["epoch-0002-batch-0001000", "epoch-0003"]


def test_what_killed_workers_left_of_a_save_goes_with_the_next(two: Path):
    for left in (".epoch-0002-batch-0000007.shares", ".epoch-0002.partial-1234"):
        (two / left).mkdir()
    save(two, 3)
    assert sorted(path.name for path in two.iterdir()) == ["epoch-0002", "epoch-0003"]


def test_a_save_that_fails_for_another_reason_is_left_to_a_restart(two: Path, monkeypatch: pytest.MonkeyPatch):
    """A `JobError` would end the run for good, as a known reason."""

    def cut_off(self: Shards, folder: Path, progress: dict[str, Any]) -> None:
        raise RuntimeError("Connection closed by peer")

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "save", cut_off)
        with pytest.raises(RuntimeError, match="closed by peer"):
            save(two, 3)
    assert restore(two) == {"epoch": 2}
    save(two, 3)
    assert restore(two) == {"epoch": 3}


def forked(function: Callable[[], object]) -> int:
    """How a copy of this process ended that did something; threads, and so collectives, are not copied."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        checkpoint._first_does = lambda work: work()
        torch.distributed.barrier = lambda: None
        function()
        status = 0
    except BaseException:  # noqa: BLE001 - the copy must never return into the test
        traceback.print_exc()
    finally:
        os._exit(status)


def without_protocol() -> None:
    """Checkpoints are written in their place, and not looked at before they are loaded."""

    def in_place(folder: Path, manifest: str, fill: Callable[[Path], Any]) -> None:
        folder.mkdir()
        fill(folder)

    checkpoint.commit = in_place  # pyright: ignore[reportAttributeAccessIssue]
    checkpoint.verify = lambda *given: {}


def save_killed_at(point: int, folder: Path) -> None:
    """Save epoch 2; killed before the change below the folder that has this number."""
    left = point

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        changes |= event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(folder) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)
    save(folder, 2)


def after_a_death_at_every_point(place: Path, prepare: Callable[[], None]) -> list[int | None]:
    """The epoch that is restored, from the first point of a save to none; None where it was half of one."""
    save(place / "before", 1)
    found: list[int | None] = []
    whole = False
    while not whole:
        folder, answer = place / f"killed-{len(found)}", place / f"answer-{len(found)}"
        shutil.copytree(place / "before", folder)

        def die(folder: Path = folder) -> None:
            prepare()
            save_killed_at(len(found), folder)

        def go_on(folder: Path = folder, answer: Path = answer) -> None:
            prepare()
            restored = restore(folder)
            assert restored is not None
            answer.write_text(str(restored["epoch"]))
            save(folder, 3)
            assert restore(folder) == {"epoch": 3}

        whole = forked(die) == 0
        forked(go_on)
        found.append(int(answer.read_text()) if answer.exists() else None)
    return found


@fault("killed inside a save")
def test_a_death_at_any_point_of_a_save_leaves_this_checkpoint_or_the_one_before(tmp_path: Path):
    found = after_a_death_at_every_point(tmp_path, lambda: None)
    assert len(found) >= 10
    assert found == sorted(found, key=str) and set(found) == {1, 2}


@fault("killed inside a save")
def test_without_the_protocol_a_death_leaves_half_of_a_checkpoint_that_is_loaded(tmp_path: Path):
    assert None in after_a_death_at_every_point(tmp_path, without_protocol)
