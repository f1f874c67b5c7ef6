"""Prepared rows as a served model meets them, and what a model under compression says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.data.batches import collate
from jobs.data.prepared import Examples
from jobs.tasks import classify
from serving.runtime import TOKENS_PER_BATCH, cut

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


def logits(model: nn.Module | Path, rows: Rows) -> np.ndarray:
    """Logits [N, C] of a model, or of an exported file."""
    answer = _of_file(model) if isinstance(model, Path) else _of_module(model)
    return np.concatenate([answer(feed) for feed in rows.feeds])


def metric(model: nn.Module | Path, rows: Rows) -> float:
    """`classify.METRIC` of a model, or of an exported file."""
    return classify.metrics(logits(model, rows).argmax(1), rows.labels)[classify.METRIC]


def _longest(examples: Examples, batch: np.ndarray) -> int:
    return int(examples.lengths[batch].max())


def _of_file(file: Path) -> Callable[[Feed], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda feed: np.asarray(session.run(["logits"], feed)[0])


def _of_module(model: nn.Module) -> Callable[[Feed], np.ndarray]:
    import torch

    def answer(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()

    model.eval()
    return answer
