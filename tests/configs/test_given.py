from __future__ import annotations

import errno
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.session import JobError
from configs.folder import FolderError
from configs.given import LONGEST_REASON, given, reason, root_of
from configs.loader import UsageError

AT = "teacher.model: /models/ours"


def damaged_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    path.write_text('{"version": "1.0", "model": {"type": "Nobody"}}', encoding="utf-8")
    Tokenizer.from_file(str(path))


def cut_weights(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file({"weight": np.zeros((64, 64))}, path)
    path.write_bytes(path.read_bytes()[:300])
    load_file(path)


def size_as_words(folder: Path) -> None:
    from transformers import AutoConfig

    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": "large"}), encoding="utf-8")
    AutoConfig.from_pretrained(folder)


def no_parquet(folder: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.ParquetFile(io.BytesIO(b"PAR1 and nothing more PAR1"))


def package_that_is_missing(folder: Path) -> None:
    import no_such_package_of_anybody  # noqa: F401 # pyright: ignore[reportMissingImports]


def no_such_key(folder: Path) -> None:
    json.loads('{"pooling": "mean"}')["modules"]


def panic(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    tokenizer |= {"pre_tokenizer": {"type": "WhitespaceSplit"}}
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 5}
    Tokenizer.from_str(json.dumps(tokenizer | {"truncation": cut})).encode("a a a a a")


def cut_gzip(folder: Path) -> None:
    zlib.decompress(b"\x78\x9c\x00")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (damaged_tokenizer, "variant"),
        (cut_weights, "(?i)incomplete|deseriali"),
        (size_as_words, "hidden_size.*large"),
        (no_parquet, "(?i)parquet"),
        (package_that_is_missing, "No module named 'no_such_package_of_anybody'"),
        (no_such_key, "KeyError: 'modules'"),
        (cut_gzip, "decompressing"),
        (panic, "stride"),
    ],
)
def test_what_libraries_raise_is_one_line_of_field_file_reason_and_remedy(
    read: Callable[[Path], Any], said: str, tmp_path: Path
):
    with pytest.raises(UsageError) as refused, given(AT, "give another"):
        read(tmp_path)
    line = str(refused.value)
    assert line.startswith(f"{AT}: cannot be read: ")
    assert line.endswith("; give another")
    assert re.search(said, line)
    assert len(line.splitlines()) == 1
    with pytest.raises(BaseException) as plain:  # noqa: PT011 - the control: the libraries share no type
        read(tmp_path)
    assert not isinstance(plain.value, UsageError)


@pytest.mark.parametrize(
    "known",
    [UsageError("a: one line"), JobError("b: of a job"), FolderError("c: of a folder"), MemoryError("none left")],
)
def test_what_is_known_passes_as_it_is(known: Exception):
    with pytest.raises(type(known), match=re.escape(str(known))) as passed, given(AT):
        raise known
    assert passed.value is known


def test_a_full_disk_is_no_fault_of_what_was_given():
    with pytest.raises(OSError, match="room"), given(AT):
        raise OSError(errno.ENOSPC, "no room", "/cache")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_is_no_fault_of_what_was_given(stop: BaseException):
    with pytest.raises(type(stop)), given(AT):
        raise stop


def test_a_reason_is_the_innermost_that_says_something():
    assert reason(_raised(OSError("of the outside"), ValueError("of the inside"))) == "of the inside"
    assert reason(_raised(OSError("of the outside"), KeyError("model_type"))) == "of the outside"
    assert reason(_raised(OSError("of the outside"), ValueError())) == "of the outside"
    assert reason(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Can't load it. If you were trying to load it from the Hub, make sure. Otherwise, hope.", "Can't load it"),
        ('Traceback (most recent call last):\n  File "x.py", line 3, in f\nthe end', "the end"),
        (
            "Validation error for field 'size':\n    TypeError: expected int",
            "Validation error for field 'size': TypeError",
        ),
        ("403 at https://me:secret@host/a.csv?sig=abc, url=https://host/a.csv?sig=abc", "403 at https://host/a.csv?…,"),
        ("[Errno 111] Connection refused", "Connection refused"),
        ("\x1b[36mcoloured\x1b[0m", "coloured"),
        ("See the above report", "ValueError"),
        ("x" * 1000, "xxx"),
    ],
)
def test_a_reason_is_short_and_holds_neither_advice_nor_secrets(message: str, said: str):
    told = reason(ValueError(message))
    assert told.startswith(said)
    assert len(told) <= LONGEST_REASON
    assert not re.search("secret|sig=|hope|x.py", told)


def test_a_reason_of_the_system_names_its_file():
    assert reason(FileNotFoundError(2, "No such file", "/m/vocab.txt")) == "No such file: /m/vocab.txt"


def test_what_lies_below_a_known_error_is_not_told():
    known = UsageError("the line")
    assert root_of(_raised(RuntimeError("around"), _raised(known, ValueError("below")))) is known


def _raised(error: Exception, below: Exception) -> Exception:
    error.__cause__ = below
    return error
