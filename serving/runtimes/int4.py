"""Weights of 4 bits in CTranslate2's model.bin, whose format has none: they are expanded when the file is opened.

The file is a list of arrays by name. A matrix [R, C] is stored as its codes from -8 to 7, two to a byte, and its
scales, one for each group of neighbouring inputs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving.bundle import BundleError

CODES, SCALES = "_int4", "_int4_scale"  # after the name of a matrix: int8 [R, C / 2], float16 [R, groups]
NUMBERS = {"float32": "<f4", "int8": "<i1", "int16": "<i2", "int32": "<i4", "float16": "<f2", "bfloat16": "<u2"}
KINDS = list(NUMBERS)  # the file stores an index into this list


class Array(NamedTuple):
    """An array of the file; bfloat16 is held as the upper halves of float32."""

    kind: str
    values: np.ndarray

    @classmethod
    def of(cls, kind: str, values: np.ndarray) -> Array:
        """`values` as numbers of a kind, other than bfloat16."""
        return cls(kind, np.ascontiguousarray(values, NUMBERS[kind]))

    @property
    def floats(self) -> np.ndarray:
        """The values as float32."""
        if self.kind == "bfloat16":
            return (self.values.astype("<u4") << 16).view("<f4")
        return self.values.astype("<f4")


class ModelFile(NamedTuple):
    """The content of a model.bin."""

    head: bytes  # versions, and what kind of model it is
    arrays: dict[str, Array]
    aliases: bytes  # further names of arrays

    def content(self) -> bytes:
        """The bytes of the file."""
        parts = [self.head, struct.pack("<I", len(self.arrays))]
        for name, (kind, values) in self.arrays.items():
            text = name.encode() + b"\0"
            parts += [struct.pack("<H", len(text)), text]
            parts.append(struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape))
            parts += [struct.pack("<BI", KINDS.index(kind), values.nbytes), values.tobytes()]
        return b"".join([*parts, self.aliases])


def read(path: Path) -> ModelFile:
    """The file, whose arrays stay on disk until they are looked at. Raises `BundleError`."""
    try:
        data = np.memmap(path, np.uint8, mode="r")
        (size,) = struct.unpack_from("<H", data.data, 4)
        start = 4 + 2 + size + 4  # version of the format, name and version of the kind of model
        (number,) = struct.unpack_from("<I", data.data, start)
        arrays, end = {}, start + 4
        for _ in range(number):
            name, array, end = _array(data, end)
            arrays[name] = array
        return ModelFile(data[:start].tobytes(), arrays, data[end:].tobytes())
    except (ValueError, IndexError, struct.error) as error:
        raise BundleError(f"{path}: is no file of CTranslate2: {error}") from None


def _array(data: np.ndarray, at: int) -> tuple[str, Array, int]:
    """(name, array, its end) of the array that begins at byte `at`."""

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        fields = struct.unpack_from(f"<{form}", data.data, at)
        at += struct.calcsize(f"<{form}")
        return fields

    (size,) = take("H")
    (text,) = take(f"{size}s")
    (rank,) = take("B")
    shape = take(f"{rank}I")
    number, length = take("BI")
    kind = KINDS[number]
    values = data[at : at + length].view(NUMBERS[kind]).reshape(shape)
    return text[:-1].decode(), Array(kind, values), at + length


def expanded(file: ModelFile) -> ModelFile:
    """The file in CTranslate2's own number formats; the same file where nothing is in 4 bits."""
    return file._replace(arrays=dict(_expand(file.arrays))) if any(map(_is_coded, file.arrays)) else file


def unpack(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Float32 [R, C] of int8 codes [R, C / 2] and float16 scales [R, groups]."""
    pairs = codes.view(np.uint8)
    numbers = np.stack([pairs & 15, pairs >> 4], -1).astype(np.float32) - 8
    return (numbers.reshape(*scales.shape, -1) * scales[..., None].astype(np.float32)).reshape(len(codes), -1)


def _expand(arrays: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    for name, array in arrays.items():
        if _is_coded(name):
            matrix = name.removesuffix(CODES)
            yield matrix, Array.of("float32", unpack(array.values, arrays[matrix + SCALES].values))
        elif not name.endswith(SCALES):
            yield name, array


def _is_coded(name: str) -> bool:
    return name.endswith(CODES)
