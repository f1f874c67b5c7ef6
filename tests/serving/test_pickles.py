from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from serving.pickles import pickle_reason


class Runs:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self):
        return print, ("loaded",)


def in_zip(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("model/weights", content)
    return made.getvalue()


def in_tar(content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def reason(folder: Path, content: bytes) -> str | None:
    (folder / "model.bin").write_bytes(content)
    return pickle_reason(folder / "model.bin")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Runs(), {"weights": [1.5, None]}], ids=["code", "data"])
def test_pickles_of_every_protocol_are_found_bare_and_in_archives(tmp_path: Path, protocol: int, value: object):
    content = pickle.dumps(value, protocol)
    assert "pickle" in (reason(tmp_path, content) or "")
    assert "zip archive that holds the pickle 'model/weights'" in (reason(tmp_path, in_zip(content)) or "")
    assert "tar archive that holds the pickle 'pickle'" in (reason(tmp_path, in_tar(content)) or "")


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_found_before_other_bytes_and_without_the_mark_of_its_protocol(tmp_path: Path, protocol: int):
    content = pickle.dumps(Runs(), protocol)
    assert reason(tmp_path, content + b"\x00" * 100)
    assert reason(tmp_path, (content[2:] if protocol >= 2 else content) + b"\x00" * 100)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'["a", "b"]\n',
        b'<?xml version="1.0"?><net></net>',
        b"a\nb\nc\n",
        struct.pack("I", 6) + struct.pack("H", 23) + b"TransformerDecoderSpec\x00",  # how model.bin begins
        b"\x08\x0a\x12\x07pytorch",  # ONNX
        b"\x80" * 4096,  # weights that are all zero in u8
        b"N." + bytes(range(256)),
        in_zip(b"{}"),
        in_tar(b"{}"),
    ],
)
def test_what_bundles_hold_is_no_pickle(tmp_path: Path, content: bytes):
    assert reason(tmp_path, content) is None


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_weights_are_no_pickle(tmp_path: Path):
    random = np.random.default_rng(0)
    for _ in range(300):
        assert reason(tmp_path, random.normal(size=200).astype(np.float32).tobytes()) is None
        assert reason(tmp_path, random.integers(-128, 128, 800, dtype=np.int8).tobytes()) is None
