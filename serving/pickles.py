"""Finds pickles by the content of a file, whatever its name: loading a pickle runs its author's code."""

from __future__ import annotations

import pickletools
import tarfile
import zipfile
from pathlib import Path
from typing import IO

OPCODES = frozenset(each.code for each in pickletools.opcodes)


def pickle_reason(path: Path) -> str | None:
    """Why `path` is a pickle or holds one; None if it does not."""
    with path.open("rb") as file:
        if reason := _pickled(file):
            return reason
    if zipfile.is_zipfile(path):
        return _in_zip(path)
    if tarfile.is_tarfile(path):  # torch before 0.1.10
        return _in_tar(path)
    return None


def _pickled(file: IO[bytes]) -> str | None:
    head = file.read(3)
    # A safetensors file may start with the same two bytes (they are its header's length), but then a zero
    # follows, which is no pickle opcode.
    if len(head) == 3 and head[0] == 0x80 and 2 <= head[1] <= 5 and chr(head[2]) in OPCODES:
        return f"starts as a pickle of protocol {head[1]}"
    file.seek(0)
    return "reads as a pickle" if _unmarked(file) else None


def _unmarked(file: IO[bytes]) -> bool:
    """Whether a file reads as a pickle of protocol 0 or 1, which has no mark: until it names code, or to its last byte.

    Weights that happen to begin with some opcodes do neither.
    """
    texts = 0
    try:
        for operation, argument, _ in pickletools.genops(file):
            texts += isinstance(argument, str)
            if operation.name in ("GLOBAL", "INST") or (operation.name == "STACK_GLOBAL" and texts >= 2):
                return True
            if operation.name == "PROTO" and argument not in range(6):
                return False
    except Exception:  # noqa: BLE001 - what genops raises over other bytes is not documented
        return False
    return not file.read(1)


def _in_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    if name.endswith(".pkl") or _pickled(member):
                        return f"a zip archive that holds the pickle {name!r}"
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):  # damaged, encrypted, an unknown compression
        return None
    return None


def _in_tar(path: Path) -> str | None:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and _pickled(content):
                    return f"a tar archive that holds the pickle {member.name!r}"
    except tarfile.TarError:
        return None
    return None
