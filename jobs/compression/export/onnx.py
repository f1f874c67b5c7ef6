"""torch -> ONNX: any batch, and any length that the model's positions allow."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from cluster.session import JobError
from jobs.compression.export.small import small
from jobs.compression.rewrite import for_export
from jobs.compression.step_context import StepContext
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.loading import longest

OPSET = 20
SAMPLE = (2, 9)  # rows and tokens of the traced example, fewer of a shorter model; both free afterwards
UNLIMITED = 512  # tokens that a graph takes at most where the model has no limit
COMPARED = ((1, 5), (3, 17))  # rows and tokens
TOLERANCE = 1e-3  # largest difference of a logit between torch and the exported file,
PRECISION = 1e-5  # or as a share of the largest logit in its row: a head of grades has squares as logits


def export(model: EncoderClassifier, made: Path, context: StepContext) -> None:
    """Write `made`, the ONNX file of `model`; see `graph_of`."""
    shutil.copyfile(graph_of(model, context), made)


def try_export(config: PreTrainedConfig) -> None:
    """Export a small model of `config`. Raises where that fails, or where the file answers otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        try_graph(config, Path(folder))


def try_graph(config: PreTrainedConfig, folder: Path) -> Path:
    """The ONNX file of a small model of `config`."""
    model = encoder.from_config(small(config), "mean", 2, 0.0)
    export_onnx(model, encoder.graph_inputs(model, False), folder / "small.onnx")
    return folder / "small.onnx"


def graph_of(model: EncoderClassifier, context: StepContext) -> Path:
    """The ONNX file of the model that a compression exports, made once for all runtimes; see `export_onnx`."""
    file = context.folder / "model.onnx"
    if not file.exists():
        export_onnx(model, context.inputs, file)
    return file


def export_onnx(model: EncoderClassifier, inputs: Sequence[str], file: Path) -> None:
    """Write `model` as one ONNX file with int64 `inputs` [batch, length] and the output `logits` [batch, C].

    Raises `JobError` where the file does not answer like the model.
    """
    model = model.eval()
    most = longest(model.encoder) or UNLIMITED
    example = {name: torch.ones(SAMPLE[0], min(SAMPLE[1], most), dtype=torch.int64) for name in inputs}
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=most)
    trace(for_export(model), example, {name: {0: batch, 1: length} for name in inputs}, ["logits"], file)
    _drop_notes(file)
    difference = largest_difference(model, inputs, file)
    if not difference <= TOLERANCE:  # NaN is a difference
        raise JobError(
            f"the exported file differs from the model by {difference:.2g} in a logit; at most {TOLERANCE}, of logits "
            f"beyond {TOLERANCE / PRECISION:g} in proportion"
        )


def trace(
    module: nn.Module,
    example: Mapping[str, torch.Tensor],
    free: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    file: Path,
) -> None:
    """Write the graph of `module`, called with `example`; `free` are the axes of each input that vary in size."""
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            module,
            (),
            str(file),
            kwargs=dict(example),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes={name: dict(axes) for name, axes in free.items()},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def largest_difference(model: EncoderClassifier, inputs: Sequence[str], file: Path) -> float:
    """Largest difference of a logit between `model` and `file` over rows of any of its tokens, with padding.

    It is absolute; in a row with logits beyond `TOLERANCE` / `PRECISION` it is scaled down in proportion.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator, worst = np.random.default_rng(0), 0.0
    table: Any = model.encoder.get_input_embeddings()
    for rows, most in COMPARED:
        tokens = min(most, longest(model.encoder) or UNLIMITED)
        feed = {name: np.zeros((rows, tokens), dtype=np.int64) for name in inputs}
        feed["input_ids"] = generator.integers(0, table.num_embeddings, (rows, tokens))
        feed["attention_mask"] = (np.arange(tokens) < generator.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
        with torch.inference_mode():
            expected = model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()
        actual_BC = session.run(["logits"], feed)[0]
        scale_B1 = np.maximum(np.abs(expected).max(1, keepdims=True) * PRECISION / TOLERANCE, 1)
        worst = float(np.maximum(worst, (np.abs(expected - actual_BC) / scale_B1).max()))
    return worst


def _drop_notes(file: Path) -> None:
    """Drop the exporter's notes of source paths and lines at each node, and the shapes of values in between.

    ONNX Runtime (1.31) would fuse a residual and its norm where it knows their shapes, into an operation on one core
    that takes 2.5 times as long as the two.
    """
    import onnx

    model = onnx.load(str(file))
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output):
        del noted.metadata_props[:]
    del graph.value_info[:]
    _store_once(graph)
    onnx.save(model, str(file))


def _store_once(graph: Any) -> None:
    """Store equal weights once: the exporter repeats the weights of a shared layer for each of its places."""
    first: dict[tuple[Any, ...], str] = {}
    names, kept = {}, []
    for tensor in graph.initializer:
        same = (tensor.data_type, *tensor.dims, tensor.raw_data) if len(tensor.dims) > 1 else (tensor.name,)
        names[tensor.name] = first.setdefault(same, tensor.name)
        if names[tensor.name] == tensor.name:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


@contextlib.contextmanager
def _quiet():
    """Silence the exporter, which prints its progress and warns about versions: a job's log is for its reader."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
