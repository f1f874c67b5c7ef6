"""Looks for texts in all that a program leaves behind: files of any kind, in every form that a text is written in."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import sqlite3
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

AT_ONCE = 500  # files that one grep looks into
DEEPEST = 4  # containers in containers


class Hit(NamedTuple):
    """A text, the form that it was found in, and where; `inside` names the part of a container."""

    text: str
    form: str
    path: Path
    inside: str = ""


class Searcher:
    """Knows the forms of some texts, and finds them by one pass over all bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._forms = {
            needle: (text, form) for text in texts for form, needles in forms_of(text).items() for needle in needles
        }
        assert not any(b"\n" in needle for needle in self._forms)

    def in_folders(self, folders: Iterable[Path], since: float = 0) -> list[Hit]:
        """Of all files below the folders that changed at or after that time; of folders and files also the names."""
        found: list[Hit] = []
        files: list[Path] = []
        for path in (each for folder in folders for each in folder.rglob("*")):
            found += self._in(str(path).encode(), path, "its name")
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink() and path.lstat().st_mtime >= since:
                    files.append(path)
        for path in self._with_hits(files):
            with contextlib.suppress(OSError):
                found += self._in(path.read_bytes(), path)
        for path in files:
            with contextlib.suppress(OSError):
                found += self._in_container(path.read_bytes() if _is_container(path) else b"", path, "", 0)
        return list(dict.fromkeys(found))

    def in_bytes(self, content: bytes, name: str) -> list[Hit]:
        """Of what is no file, such as the answer of a server."""
        return [*self._in(content, Path(name)), *self._in_container(content, Path(name), "", 0)]

    def _with_hits(self, files: Sequence[Path]) -> Iterator[Path]:
        """The files that hold a needle as they are."""
        with tempfile.NamedTemporaryFile() as needles:
            needles.write(b"\n".join(self._forms))
            needles.flush()
            for start in range(0, len(files), AT_ONCE):
                command = ["grep", "-laFZf", needles.name, "--", *map(str, files[start : start + AT_ONCE])]
                done = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, check=False)
                yield from (Path(name.decode()) for name in done.stdout.split(b"\0") if name)

    def _in(self, content: bytes, path: Path, inside: str = "") -> list[Hit]:
        return [Hit(*self._forms[each], path, inside) for each in self._forms if each in content]

    def _in_container(self, content: bytes, path: Path, inside: str, depth: int) -> list[Hit]:
        found: list[Hit] = []
        for magic, parts in CONTAINERS.items():
            if not content.startswith(magic):
                continue
            for name, part in parts(content):
                at = f"{inside}/{name}"
                found += self._in(part, path, at)
                found += self._in_container(part, path, at, depth + 1) if depth < DEEPEST else []
        return found


def forms_of(text: str) -> Mapping[str, list[bytes]]:
    """How a text may be written down, by the name of the form."""
    whole = text.encode()
    utf_16 = [text.encode("utf-16-le"), text.encode("utf-16-be")]
    found = {"UTF-8": [whole], "UTF-16": [*utf_16], "Base64": [_at(whole, shift) for shift in range(3)]}
    escaped = json.dumps(text)[1:-1]
    if escaped.encode() != whole:
        found["JSON"] = [escaped.encode(), escaped.upper().replace("\\U", "\\u").encode()]
        found["Python"] = [repr(whole)[2:-1].encode(), text.encode("unicode_escape")]
    percent = quote(text, safe="")
    if percent != text:
        found["percent"] = [percent.encode(), percent.replace("%20", "+").encode(), _lower(percent).encode()]
    return found


def _at(content: bytes, shift: int) -> bytes:
    """What of Base64 is the same whatever stands before and after the content, `shift` bytes into a group of three."""
    first = -(-8 * shift // 6)
    whole = base64.b64encode(bytes(shift) + content).rstrip(b"=")
    return whole[first : 8 * (shift + len(content)) // 6]


def _lower(percent: str) -> str:
    parts = percent.split("%")
    return "%".join([parts[0], *(each[:2].lower() + each[2:] for each in parts[1:])])


Parts = Iterator[tuple[str, bytes]]


def _is_container(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16).startswith(tuple(CONTAINERS))


def _unpacked(unpack: Callable[[bytes], bytes]) -> Callable[[bytes], Parts]:
    def parts(content: bytes) -> Parts:
        with contextlib.suppress(OSError, EOFError, lzma.LZMAError):  # what only begins like one
            yield "unpacked", unpack(content)

    return parts


def _of_zip(content: bytes) -> Parts:
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def _of_parquet(content: bytes) -> Parts:
    """The columns, each as its buffers lie in memory: texts without what packs or shortens them."""
    import pyarrow
    import pyarrow.parquet

    with contextlib.suppress(pyarrow.ArrowException):
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        for name in table.column_names:
            for chunk in table[name].chunks:
                plain = chunk.dictionary_decode() if isinstance(chunk, pyarrow.DictionaryArray) else chunk
                yield name, b"".join(each.to_pybytes() for each in plain.buffers() if each is not None)


def _of_sqlite(content: bytes) -> Parts:
    """The rows of each table: a long value lies on several pages of the file."""
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content)
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            for row in database.execute(f'SELECT * FROM "{name}"'):  # noqa: S608 - its own name
                yield name, b"\0".join(each if isinstance(each, bytes) else str(each).encode() for each in row)


CONTAINERS: Mapping[bytes, Callable[[bytes], Parts]] = {  # by how they begin
    b"\x1f\x8b": _unpacked(gzip.decompress),
    b"BZh": _unpacked(bz2.decompress),
    b"\xfd7zXZ\x00": _unpacked(lzma.decompress),
    b"PK\x03\x04": _of_zip,
    b"#!": _of_zip,  # a program that is a zip behind its first line
    b"PAR1": _of_parquet,
    b"SQLite format 3\x00": _of_sqlite,
}
