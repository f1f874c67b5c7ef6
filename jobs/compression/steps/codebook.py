"""Weights stored as packed indices into a codebook (Han et al. 2016, arXiv 1510.00149, section 3).

The graph itself unpacks them by standard operations on constants, which a runtime computes once, when it loads the
file. So any runtime runs it, as fast as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cluster.session import JobError
from configs.schema.compression import CodeSpec
from jobs.compression.step_context import StepContext

WEIGHTS = (np.float32, np.float16, np.int8, np.uint8)
WORD = 32  # bits
MOST_BITS = 8  # most bits of an index
TASTE = 4096  # weights looked at first, for whether there may be few values
OVERHEAD = 2000  # bytes of the nodes and small constants of a tensor


@dataclass(frozen=True)
class Coded:
    """A tensor as indices into values, one codebook for all of it [K], or one for each column [K, C]."""

    values: np.ndarray
    index: np.ndarray  # of the shape of the tensor

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return max(1, (len(self.values) - 1).bit_length())

    @property
    def words_M1(self) -> np.ndarray:
        """The indices in order, packed whole into words, the first in the lowest bits: uint32 [M, 1]."""
        count = WORD // self.bits
        flat = np.pad(self.index.ravel().astype(np.uint32), (0, -self.index.size % count)).reshape(-1, count)
        return np.bitwise_or.reduce(flat << self.shifts_W, axis=1)[:, None]

    @property
    def shifts_W(self) -> np.ndarray:
        """Bit of a word at which each index begins, uint32."""
        return np.arange(WORD // self.bits, dtype=np.uint32) * np.uint32(self.bits)

    @property
    def size(self) -> int:
        """Bytes of indices and values."""
        words = -(-self.index.size // (WORD // self.bits))
        return words * WORD // 8 + self.values.nbytes


def code(file: Path, spec: CodeSpec, made: Path, context: StepContext) -> None:
    """Write `made`: `file` with every tensor coded that gets smaller so. Raises `JobError` where none does.

    Facts: tensors, their bytes before, and coded.
    """
    model = onnx.load(str(file))
    graph = model.graph
    coded: dict[str, Coded] = {}
    whole, before = [], 0
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        best = min(candidates(array), key=lambda each: each.size, default=None)
        if best is not None and best.size + OVERHEAD < array.nbytes:
            coded[tensor.name] = best
            before += array.nbytes
        else:
            whole.append(tensor)
    if not coded:
        raise JobError("compression: code: no weights of the file have few enough values; put cluster before export")
    del graph.initializer[:]
    graph.initializer.extend(whole)
    nodes = [node for name, each in coded.items() for node in _unpacked(name, each, graph.initializer)]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(made))
    after = sum(each.size for each in coded.values())
    context.note(spec, tensors=len(coded), bytes_before=before, bytes=after)


def candidates(array: np.ndarray) -> Iterator[Coded]:
    """The coded forms of a tensor with indices of at most `MOST_BITS`.

    Quantised matrices with a scale for each column have few values by column only.
    """
    if array.dtype not in WEIGHTS:
        return
    most = 2**MOST_BITS
    if array.size and len(np.unique(array.ravel()[:TASTE])) <= most:
        values_K, index = np.unique(array, return_inverse=True)
        if len(values_K) <= most:
            yield Coded(values_K, index.reshape(array.shape))
    if array.ndim == 2 and len(np.unique(array[:TASTE, 0])) < most:
        columns = [np.unique(column, return_inverse=True) for column in array.T]
        if (longest := max(len(values) for values, _ in columns)) <= most:
            values_KC = np.stack([np.pad(values, (0, longest - len(values))) for values, _ in columns], axis=1)
            yield Coded(values_KC, np.stack([index for _, index in columns], axis=1))


def _unpacked(name: str, coded: Coded, initializers: Any) -> Iterator[NodeProto]:
    """Nodes that make the tensor `name`; their constants are appended to `initializers`."""

    def constant(what: str, array: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(array, f"{name}_{what}"))
        return f"{name}_{what}"

    def node(kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, list(inputs), [output or f"{name}_{kind.lower()}"], **attributes)

    words, shifts = constant("words", coded.words_M1), constant("shifts", coded.shifts_W)
    yield (shifted := node("BitShift", words, shifts, direction="RIGHT"))
    mask = constant("mask", np.array(2**coded.bits - 1, dtype=np.uint32))
    yield (masked := node("BitwiseAnd", shifted.output[0], mask))
    yield (number := node("Cast", masked.output[0], to=TensorProto.INT32))
    flat = constant("flat", np.array([-1]))
    yield (padded := node("Reshape", number.output[0], flat, output=f"{name}_padded"))
    ends = constant("start", np.array([0])), constant("end", np.array([coded.index.size]))
    yield (whole := node("Slice", padded.output[0], *ends))
    shape = constant("shape", np.array(coded.index.shape))
    yield (index := node("Reshape", whole.output[0], shape, output=f"{name}_index"))
    look_up = "Gather" if coded.values.ndim == 1 else "GatherElements"
    yield node(look_up, constant("values", coded.values), index.output[0], output=name, axis=0)
