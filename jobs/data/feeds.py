"""Prepared rows as a served model reads them: padded batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.data.batches import collate
from jobs.data.prepared import Examples
from serving.inputs import TOKENS_PER_BATCH, cut

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
        arrays = {name: each.numpy() for name, each in collate(examples, batch, longest_of(examples, batch)).items()}
        arrays["input_ids"][arrays["attention_mask"] == 0] = pad_id
        feeds.append({name: arrays[name] for name in inputs})
    return Rows(feeds, examples.labels[np.concatenate(batches)])


def spread(number: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0 to `number` - 1, evenly spread over them."""
    return np.unique(np.linspace(0, number - 1, min(most, number)).round().astype(np.int64))


def longest_of(examples: Examples, batch: np.ndarray) -> int:
    """Tokens of the longest row of a batch."""
    return int(examples.lengths[batch].max())
