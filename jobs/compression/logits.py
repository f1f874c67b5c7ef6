"""Logits of a model under compression, or of its exported file, for prepared rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.schema.runtimes import RUNTIMES
from configs.schema.tasks import named
from jobs.data.feeds import Feed, Rows
from serving.runtimes import ClassifierModel

if TYPE_CHECKING:
    from torch import nn


def logits(model: nn.Module | Path | ClassifierModel, rows: Rows) -> np.ndarray:
    """Logits [N, C] of a model, of an exported file, or of an open file."""
    if isinstance(model, Path):
        model = open_file(model)
    answer = model.logits if isinstance(model, ClassifierModel) else _of_module(model)
    return np.concatenate([answer(feed) for feed in rows.feeds])


def open_file(file: Path, precision: str = "f32") -> ClassifierModel:
    """An exported classifier, on all cores of this process."""
    opens = {each.suffix: each.open_file for each in RUNTIMES.values() if each.suffix}
    return named(opens[file.suffix] or "")(file, precision, cores())


def cores() -> int:
    """Number of cores of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_module(model: nn.Module) -> Callable[[Feed], np.ndarray]:
    import torch

    def answer(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()

    model.eval()
    return answer
