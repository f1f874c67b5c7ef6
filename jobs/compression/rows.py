"""Prepared rows as a served model meets them, and what a model under compression says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.data.batches import collate, collate_packs
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
    chosen = spread(len(examples), most)
    batches = [chosen[batch] for batch in cut(examples.lengths[chosen].tolist(), TOKENS_PER_BATCH)]
    feeds = []
    for batch in batches:
        arrays = {name: each.numpy() for name, each in collate(examples, batch, _longest(examples, batch)).items()}
        arrays["input_ids"][arrays["attention_mask"] == 0] = pad_id
        feeds.append({name: arrays[name] for name in inputs})
    return Rows(feeds, examples.labels[np.concatenate(batches)])


def spread(number: int, most: int) -> np.ndarray:
    """At most `most` of so many indices, evenly spread over them."""
    return np.unique(np.linspace(0, number - 1, min(most, number)).round().astype(np.int64))


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


def token_accuracy(model: nn.Module, examples: Examples, most: int) -> float:
    """Share of the tokens to generate that a decoder finds the likeliest after those before, in at most `most` rows."""
    import torch

    from jobs.training.loss import at_targets

    model.eval()
    rows, right, tokens = spread(len(examples), most), 0, 0
    for batch in cut(examples.lengths[rows].tolist(), TOKENS_PER_BATCH):
        given = collate_packs(examples, [rows[[each]] for each in batch], _longest(examples, rows[batch]))
        with torch.inference_mode():
            logits_NV, target_N = at_targets(model(given["input_ids"], given["position_ids"]), given["target"])
        right += int((logits_NV.argmax(1) == target_N).sum())
        tokens += len(target_N)
    return right / max(1, tokens)


def _longest(examples: Examples, batch: np.ndarray) -> int:
    return int(examples.lengths[batch].max())


def _of_module(model: nn.Module) -> Callable[[Feed], np.ndarray]:
    import torch

    def answer(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()

    model.eval()
    return answer
