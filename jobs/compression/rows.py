"""Prepared rows as a served model meets them, and what a model under compression says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.data.batches import collate
from jobs.data.prepared import Examples
from jobs.tasks import classify
from serving.inputs import TOKENS_PER_BATCH, cut
from serving.runtimes import ClassifierModel
from serving.runtimes.onnxruntime import OnnxModel, open_session
from serving.runtimes.openvino import OpenvinoModel, compile_file

if TYPE_CHECKING:
    from torch import nn

Feed = dict[str, np.ndarray]  # inputs of the graph by name, int64 [B, L]


@dataclass(frozen=True)
class Rows:
    """N rows in batches of like length, each padded to the longest of its batch."""

    feeds: list[Feed]
    labels: np.ndarray  # [N] int64, in the order of the batches

    def __len__(self) -> int:
        return len(self.labels)


def take(examples: Examples, inputs: Sequence[str], pad_id: int, most: int) -> Rows:
    """At most `most` of the examples, evenly spread over them, with the `inputs` of the graph."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(most, len(examples))).round().astype(np.int64))
    batches = [chosen[batch] for batch in cut(examples.lengths[chosen].tolist(), TOKENS_PER_BATCH)]
    feeds = []
    for batch in batches:
        arrays = {name: each.numpy() for name, each in collate(examples, batch, _longest(examples, batch)).items()}
        arrays["input_ids"][arrays["attention_mask"] == 0] = pad_id
        feeds.append({name: arrays[name] for name in inputs})
    return Rows(feeds, examples.labels[np.concatenate(batches)])


def logits(model: nn.Module | Path | ClassifierModel, rows: Rows) -> np.ndarray:
    """Logits [N, C] of a model, of an exported file, or of one that is open."""
    if isinstance(model, Path):
        model = open_file(model)
    answer = model.logits if isinstance(model, ClassifierModel) else _of_module(model)
    return np.concatenate([answer(feed) for feed in rows.feeds])


def open_file(file: Path, precision: str = "f32") -> ClassifierModel:
    """An exported classifier, on all cores of this process."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if file.suffix == ".xml":
        return OpenvinoModel(compile_file(file, precision, threads))
    return OnnxModel(open_session(file, threads))


def metric(model: nn.Module | Path, rows: Rows) -> float:
    """`classify.METRIC` of a model, or of an exported file."""
    return classify.metrics(logits(model, rows).argmax(1), rows.labels)[classify.METRIC]


def _longest(examples: Examples, batch: np.ndarray) -> int:
    return int(examples.lengths[batch].max())


def _of_module(model: nn.Module) -> Callable[[Feed], np.ndarray]:
    import torch

    def answer(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()

    model.eval()
    return answer
