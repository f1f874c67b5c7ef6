"""A folder that exists whole or not at all: written aside, described by a manifest written last, then renamed.

Prepared rows, stored teacher outputs, checkpoints and bundles are written so. A folder without a valid manifest does
not exist for any reader.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import KnownError
from configs.waiting import waiting

CHUNK_BYTES = 1 << 20
WORK = ".work"  # folder of what a job keeps beside its results
PARTIAL, OLD = "partial", "old"  # what lies beside a folder while it is made
GOES_ON = "make room and run the same command again: what is whole stays, and it goes on from there"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the process's own limit


class FolderError(KnownError):
    """A folder is missing, incomplete or damaged; the message names the file and the reason."""


def commit(folder: Path, manifest_name: str, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Make `folder` from what `fill(aside)` writes, replacing an older one; returns the manifest.

    `fill` returns the manifest's own fields; `files` (path, bytes, SHA-256 of each) is added here. A crash at any
    point leaves the older folder or none; it may leave a partial folder, which readers ignore and the next commit
    removes. Raises `FolderError` where the disk has no room.
    """
    aside = _beside(folder, PARTIAL)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _made(aside, folder):
            manifest = {**fill(aside), "files": dict(describe_files(aside, manifest_name))}
            write_manifest(aside / manifest_name, manifest)
            for parent, _, _ in os.walk(aside):
                _sync(Path(parent))
            replace(aside, folder)
    except BaseException as error:
        reason = no_room(error, folder)
        shutil.rmtree(aside, ignore_errors=True)
        if reason and not isinstance(error, FolderError):
            raise FolderError(f"{folder}: not written: {reason}; {GOES_ON}") from error
        raise
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, or replace one by another with the same `files` that says more about them."""
    write_synced(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def no_room(error: BaseException, folder: Path) -> str | None:
    """The reason in words if `error` came from a disk without room for `folder`; else None.

    Writers outside Python (safetensors, tokenizers, torch) give the reason in their text alone, or not at all.
    """
    for number in NO_ROOM:
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return os.strerror(number)
    there = next((parent for parent in folder.parents if parent.is_dir()), None)
    full = isinstance(error, Exception) and there and not shutil.disk_usage(there).free
    return os.strerror(errno.ENOSPC) if full else None


def replace(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; a folder already there is moved away first and deleted afterwards."""
    old = _beside(folder, OLD)
    with _locked(folder.parent):
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    """A new name beside `folder`, for its partial or its old state."""
    return folder.with_name(f".{folder.name}.{what}-{_boot()}-{uuid.uuid4().hex[:8]}")


@functools.cache
def _boot() -> str:
    """Id of this machine's boot, the same in all its containers; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "")[:12]
    except OSError:
        return ""


@contextlib.contextmanager
def _made(aside: Path, folder: Path) -> Iterator[None]:
    """Make `aside` and hold its lock, so that nobody takes it for a leftover; leftovers of `folder` go before."""
    with contextlib.ExitStack() as held:
        with _locked(folder.parent) as alone:
            if alone:
                _remove_leftovers(folder)
            aside.mkdir()
            held.enter_context(_locked(aside))
        yield


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of `folder`; the caller holds the lock of its parent.

    Only leftovers of this boot of this machine go: a shared file system may keep locks for each machine alone.
    """
    if not _boot():
        return
    beginnings = tuple(f".{folder.name}.{what}-{_boot()}-" for what in (PARTIAL, OLD))
    for left in [path for path in folder.parent.iterdir() if path.name.startswith(beginnings)]:
        with contextlib.suppress(FileNotFoundError), _locked(left, wait=False) as dead:  # another process cleaned up
            if dead:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """The lock of a folder, which the system frees when its holder dies; False where it cannot be taken."""
    import fcntl  # not on top: bundles are also read on systems without it

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:  # another holds it; or the file system cannot lock folders, as NFS
            held = False
        yield held
    finally:
        os.close(descriptor)


def name_again(part: Path, place: Path) -> None:
    """Give a part a second name in a folder that is filled, so that it is still there where that is not committed."""
    try:
        place.hardlink_to(part)
    except OSError:  # a file system without hard links
        shutil.copyfile(part, place)


def read_manifest(folder: Path, manifest_name: str) -> dict[str, Any]:
    """The manifest alone, digests unchecked: enough to ask what a folder holds. Raises `FolderError`."""
    path = folder / manifest_name
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FolderError(f"{path}: no such file; {folder.name} was never written whole") from None
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: unreadable: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise FolderError(f"{path}: not a manifest: it lists no files")
    return manifest


def verify(folder: Path, manifest_name: str) -> dict[str, Any]:
    """The manifest, after every file's size and SHA-256 were compared with it. Raises `FolderError`."""
    manifest = read_manifest(folder, manifest_name)
    for name, stated in manifest["files"].items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or path.is_symlink():
            raise FolderError(f"{folder / manifest_name}: {name!r} leaves the folder")
        try:
            size = path.stat().st_size
        except OSError:
            raise FolderError(f"{path}: missing, though the manifest lists it") from None
        if not isinstance(stated, dict):
            raise FolderError(f"{folder / manifest_name}: {name!r} has no size and digest")
        if size != stated.get("bytes"):
            raise FolderError(f"{path}: {size} bytes, the manifest says {stated.get('bytes')}")
        if digest_file(path) != stated.get("sha256"):
            raise FolderError(f"{path}: SHA-256 differs from the manifest; the file is damaged")
    for path in sorted(folder.rglob("*")):  # a reader of the whole folder would take it for a listed file
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in (manifest_name, *manifest["files"]):
            raise FolderError(f"{path}: not in the manifest; remove it")
    return manifest


def describe_files(folder: Path, manifest_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(relative path, {bytes, sha256}) of every file below `folder` but the manifest, in sorted order."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != manifest_name:
            _sync(path)
            yield name, {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def digest_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form: turns the inputs of a stage into its key."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def append(descriptor: int, line: bytes, *, sync: bool) -> None:
    """Append all of `line` to a file, or nothing; `sync` waits for the disk itself. Raises `OSError`."""
    before = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def write_synced(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a small text file: on disk and whole under its name, or not at all; its `mode` as the umask leaves it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(aside, "w", encoding="utf-8", opener=functools.partial(os.open, mode=mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_maker(folder: Path) -> Iterator[None]:
    """Hold the lock of whoever makes `folder`: a second maker waits, then finds the folder made."""
    path = folder.parent / WORK / f"{folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path, f"process {os.getpid()}", lambda owner: f"waiting for {folder}: {owner} makes it"):
        yield


@contextlib.contextmanager
def held(path: Path, owner: str, reason: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock of a file, which the system frees when its holder dies, and write the `owner` into it.

    Who waits for it says the `reason`, made of the name of the owner.
    """
    import fcntl  # not on top, as in `_locked`

    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting(lambda: reason(path.read_text(encoding="utf-8") or "another process")):
                fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a full disk stops no lock
            file.truncate(0)
            os.write(file.fileno(), owner.encode())
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)
