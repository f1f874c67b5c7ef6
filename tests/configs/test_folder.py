import contextlib
import errno
import json
import os
import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs import folder as folders
from configs.folder import FolderError, commit, digest_json, no_room, only_maker, read_manifest, verify, write_synced
from tests.faults.full_disk import files_of_at_most
from tests.faults.marks import fault

MANIFEST = "manifest.json"
LARGE = 200_000  # bytes


def fill(aside: Path) -> dict[str, Any]:
    (aside / "deep").mkdir()
    (aside / "weights.bin").write_bytes(b"0123456789")
    (aside / "deep" / "words.txt").write_text("wörds", encoding="utf-8")
    return {"key": "k1"}


def fill_large(aside: Path) -> dict[str, Any]:
    (aside / "weights.bin").write_bytes(bytes(LARGE))
    return {}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    commit(tmp_path / "made", MANIFEST, fill)
    return tmp_path / "made"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifest_lists_every_file_with_its_size_and_digest(made: Path):
    manifest = verify(made, MANIFEST)
    assert manifest["key"] == "k1"
    assert set(manifest["files"]) == {"weights.bin", "deep/words.txt"}
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"  # sha256sum of 0123456789
    assert manifest["files"]["weights.bin"] == {"bytes": 10, "sha256": digest}


def test_nothing_but_the_folder_is_left_beside_it(made: Path):
    commit(made, MANIFEST, fill)
    assert os.listdir(made.parent) == ["made"]


def test_a_second_commit_replaces_all_files_of_the_first(made: Path):
    commit(made, MANIFEST, lambda aside: {"key": str((aside / "other").write_text("x"))})
    assert set(contents(made)) == {MANIFEST, "other"}
    assert verify(made, MANIFEST)["key"] == "1"


@pytest.mark.parametrize("fault", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_fill_that_fails_leaves_the_older_folder_and_nothing_else(made: Path, fault: BaseException):
    before = contents(made)

    def fail(aside: Path) -> dict[str, Any]:
        (aside / "half").write_text("half")
        raise fault

    with pytest.raises(type(fault)):
        commit(made, MANIFEST, fail)
    assert contents(made) == before
    assert os.listdir(made.parent) == ["made"]


@fault("disk full")
@pytest.mark.parametrize("function", ["describe_files", "write_synced", "replace"])
def test_a_fault_after_the_fill_leaves_the_older_folder(made: Path, monkeypatch: pytest.MonkeyPatch, function: str):
    before = contents(made)

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(folders, function, fail)
    with pytest.raises(OSError, match="no space left"):
        commit(made, MANIFEST, lambda aside: {"key": str((aside / "other").write_text("x"))})
    assert contents(made) == before
    assert os.listdir(made.parent) == ["made"]


@fault("disk full")
def test_a_disk_without_room_is_one_line_and_with_room_the_folder_is_made(made: Path):
    before = contents(made)
    with files_of_at_most(LARGE // 2), pytest.raises(FolderError) as failed:
        commit(made, MANIFEST, fill_large)
    assert str(failed.value).startswith(f"{made}: not written: File too large; make room and run the same")
    assert contents(made) == before
    assert os.listdir(made.parent) == ["made"]
    commit(made, MANIFEST, fill_large)
    assert verify(made, MANIFEST)["files"]["weights.bin"]["bytes"] == LARGE


@fault("disk full")
def test_written_in_its_place_the_older_folder_would_be_damaged(made: Path):
    with files_of_at_most(LARGE // 2), pytest.raises(OSError, match="File too large"):
        fill_large(made)
    with pytest.raises(FolderError, match=r"damaged|the manifest says"):
        verify(made, MANIFEST)


@pytest.mark.parametrize(
    ("error", "free", "reason"),
    [
        (OSError(28, "x"), 1, "No space left on device"),
        (OSError(122, "x"), 1, "Disk quota exceeded"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "No space left on device"),
        (RuntimeError("PytorchStreamWriter failed"), 0, "No space left on device"),
        (RuntimeError("PytorchStreamWriter failed"), 1, None),
        (OSError(5, "x"), 1, None),
        (KeyboardInterrupt(), 0, None),
    ],
    ids=repr,
)
def test_an_error_for_want_of_room_is_known_by_its_number_its_text_or_the_disk(
    error: BaseException, free: int, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    assert no_room(error, tmp_path / "none" / "yet") == reason


@fault("killed inside a save")
@pytest.mark.parametrize("point", ["before the manifest", "before the renames"])
def test_a_killed_commit_leaves_no_folder_that_a_reader_takes_for_one(tmp_path: Path, point: str):
    """A child process dies without any cleaning up, as with SIGKILL."""
    child = os.fork()
    if child == 0:
        setattr(folders, "write_synced" if point == "before the manifest" else "replace", lambda *_: os._exit(9))
        commit(tmp_path / "made", MANIFEST, fill)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "made").exists()
    with pytest.raises(FolderError, match="made was never written whole"):
        verify(tmp_path / "made", MANIFEST)
    commit(tmp_path / "made", MANIFEST, fill)
    verify(tmp_path / "made", MANIFEST)


def killed_in_a_commit(folder: Path, function: str) -> None:
    """As with SIGKILL, in a child process, when it comes to `function`."""
    child = os.fork()
    if child == 0:
        setattr(folders, function, lambda *_: os._exit(9))
        commit(folder, MANIFEST, fill_large)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@fault("killed inside a save")
@pytest.mark.parametrize("function", ["describe_files", "write_synced", "replace"])
def test_what_a_killed_commit_left_makes_room_before_the_next_is_filled(made: Path, function: str):
    killed_in_a_commit(made, function)
    assert len(os.listdir(made.parent)) == 2
    beside: list[str] = []
    commit(made, MANIFEST, lambda aside: beside.extend(each.name for each in made.parent.iterdir()) or fill(aside))
    assert len(beside) == 2 and made.name in beside, "the older folder and the new partial one"
    assert os.listdir(made.parent) == [made.name]


@fault("killed inside a save")
def test_an_older_folder_that_a_killed_replace_moved_away_goes_with_the_next(made: Path, monkeypatch: Any):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before it
        commit(made, MANIFEST, fill_large)
    assert len(os.listdir(made.parent)) == 2
    commit(made, MANIFEST, fill)
    assert os.listdir(made.parent) == [made.name]


def test_a_folder_that_another_process_is_filling_is_no_leftover(made: Path):
    """Both commits come about, one after the other."""
    (filled, wrote), (read, go_on) = os.pipe(), os.pipe()

    def slowly(aside: Path) -> dict[str, Any]:
        os.write(wrote, b"x")
        os.read(read, 1)
        return fill_large(aside)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            commit(made, MANIFEST, slowly)
            os._exit(0)
        os._exit(1)
    os.read(filled, 1)
    commit(made, MANIFEST, fill)
    assert set(contents(made)) == {MANIFEST, "weights.bin", "deep/words.txt"}
    os.write(go_on, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(contents(made)) == {MANIFEST, "weights.bin"}
    verify(made, MANIFEST)
    assert os.listdir(made.parent) == [made.name]


def test_leftovers_of_another_machine_or_where_there_are_no_locks_stay(made: Path, monkeypatch: pytest.MonkeyPatch):
    foreign = made.with_name(f".{made.name}.partial-0123456789abcdef-01234567")
    foreign.mkdir()
    commit(made, MANIFEST, fill)
    assert foreign.is_dir()

    def without_locks(*_: Any) -> None:
        raise OSError(errno.EBADF, "as NFS says of a folder")

    killed_in_a_commit(made, "replace")
    monkeypatch.setattr("fcntl.flock", without_locks)
    commit(made, MANIFEST, fill_large)
    verify(made, MANIFEST)
    assert len(os.listdir(made.parent)) == 3


def truncate(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(b"01234")
    return r"weights\.bin: 5 bytes, the manifest says 10"


def flip_a_bit(folder: Path) -> str:
    (folder / "deep" / "words.txt").write_bytes(b"w\xc3\xb7rds")
    return r"deep/words\.txt: SHA-256 differs"


def remove(folder: Path) -> str:
    (folder / "weights.bin").unlink()
    return r"weights\.bin: missing"


def add(folder: Path) -> str:
    (folder / "deep" / "more.parquet").write_bytes(b"PAR1")
    return r"deep/more\.parquet: not in the manifest"


def replace_by_a_link(folder: Path) -> str:
    (folder / "weights.bin").rename(folder.parent / "elsewhere")
    (folder / "weights.bin").symlink_to(folder.parent / "elsewhere")
    return r"manifest\.json: 'weights\.bin' leaves the folder"


def without_manifest(folder: Path) -> str:
    (folder / MANIFEST).unlink()
    return r"manifest\.json: no such file"


def cut_manifest(folder: Path) -> str:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:40])
    return r"manifest\.json: unreadable"


def manifest_of_bytes(folder: Path) -> str:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")
    return r"manifest\.json: unreadable"


def manifest_that_is_a_list(folder: Path) -> str:
    (folder / MANIFEST).write_text("[1]")
    return r"manifest\.json: not a manifest"


def manifest_without_digests(folder: Path) -> str:
    (folder / MANIFEST).write_text('{"files": {"weights.bin": 10}}')
    return r"manifest\.json: 'weights\.bin' has no size and digest"


def manifest_of_a_file_outside(folder: Path) -> str:
    return outside(folder, "../outside")


def manifest_of_an_absolute_path(folder: Path) -> str:
    return outside(folder, str(folder.parent / "outside"))


def outside(folder: Path, name: str) -> str:
    (folder.parent / "outside").write_bytes(b"")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": folders.digest_file(folder.parent / "outside")}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return r"manifest\.json: '.*outside' leaves the folder"


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        remove,
        add,
        replace_by_a_link,
        without_manifest,
        cut_manifest,
        manifest_of_bytes,
        manifest_that_is_a_list,
        manifest_without_digests,
        manifest_of_a_file_outside,
        manifest_of_an_absolute_path,
    ],
)
@fault("folder damaged")
def test_damage_is_refused_and_the_file_named(made: Path, damage):
    message = damage(made)
    with pytest.raises(FolderError, match=message):
        verify(made, MANIFEST)


def test_manifest_alone_is_read_without_the_files(made: Path):
    (made / "weights.bin").unlink()
    assert read_manifest(made, MANIFEST)["key"] == "k1"


def test_a_synced_write_that_fails_keeps_the_older_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_synced(tmp_path / "note", "old")

    def fail(_: int) -> None:
        raise OSError("I/O error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="I/O error"):
        write_synced(tmp_path / "note", "new")
    assert (tmp_path / "note").read_text() == "old"
    assert os.listdir(tmp_path) == ["note"]


def test_a_synced_write_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_synced(tmp_path / "note", "new")
    assert [Path(each).parent for each in synced] == [tmp_path, tmp_path.parent]
    assert synced[1] == str(tmp_path)


def test_digest_of_json_ignores_the_order_of_keys_only():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json({"a": 1, "b": [1, 2]}) != digest_json({"a": 1, "b": [2, 1]})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})


def test_a_second_maker_waits_and_says_who_makes_the_folder(tmp_path: Path, waits: queue.Queue[str]):
    made = list[str]()

    def make(name: str) -> None:
        with only_maker(tmp_path / "teacher"):
            made.append(name)

    with only_maker(tmp_path / "teacher"):
        second = threading.Thread(target=make, args=("second",))
        second.start()
        line = f"waiting for {tmp_path / 'teacher'}: process {os.getpid()} makes it"
        assert waits.get(timeout=60) == line
        assert not made
    second.join()
    assert made == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == [".work"]  # beside the folders no lock lies about


def test_makers_of_other_folders_do_not_wait(tmp_path: Path, waits: queue.Queue[str]):
    with only_maker(tmp_path / "teacher"), only_maker(tmp_path / "student"):
        pass
    assert waits.empty()


def test_a_lock_that_cannot_be_named_is_held_all_the_same(tmp_path: Path, waits: queue.Queue[str]):
    with only_maker(tmp_path / "teacher"):
        (tmp_path / ".work" / "teacher.lock").write_text("")
        second = threading.Thread(target=lambda: only_maker(tmp_path / "teacher").__enter__())
        second.start()
        assert waits.get(timeout=60) == f"waiting for {tmp_path / 'teacher'}: another process makes it"
    second.join()
