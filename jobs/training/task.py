"""The interface of a task to the train loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from cluster.engine import Batch, Layers, Loss
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared

EVALUATION_TOKENS = 4096  # a batch without gradients


class TrainingTask(Protocol):
    """One task on one worker, over the training rows (a student's with its pool) and the validation rows."""

    inputs: tuple[str, ...]  # tensors of a batch that the model takes
    ranked: str  # the metric, larger is better, by which the best epoch is chosen
    lengths: np.ndarray  # tokens of each training row, [N]

    def __init__(self, prepared: Prepared, teacher_outputs: Path | None, pool_outputs: Path | None = None) -> None:
        """Batches hold the outputs in the folder `teacher_outputs`, if given; `pool_outputs` are of `prepared.pool`."""
        ...

    def teacher(self, recipe: Recipe) -> nn.Module:
        """The model that is fine-tuned."""
        ...

    def student(self, teacher: Path, recipe: Recipe, start: Path | None = None) -> nn.Module:
        """The model that learns from the bundle `teacher`: the recipe's student, or the model in the bundle `start`."""
        ...

    def result(self, model: nn.Module) -> nn.Module:
        """The part of the trained model that is evaluated and kept."""
        ...

    def shrink_token_table(self, model: nn.Module) -> None:
        """Train without the tokens that no row has, where the task can."""
        ...

    def restore_token_table(self, model: nn.Module) -> None:
        """Give the result back its other tokens."""
        ...

    def look_at(self, model: nn.Module, role: str) -> None:
        """Look at the model as it will be trained, before the first batch is made."""
        ...

    def layers(self, model: nn.Module) -> Layers:
        """The model as the layers that a pipeline is cut from."""
        ...

    def loss(self, model: nn.Module, spec: OptimizerSpec) -> Loss:
        """One number for each row of a batch, [B]."""
        ...

    def epoch(self, seed: int, epoch: int, engine: EngineSpec) -> list[np.ndarray]:
        """The global batches of an epoch, as training rows: the same on every worker and for every layout."""
        ...

    def parts(self, batch: np.ndarray, rank: int, workers: int, parts: int) -> tuple[list[Batch], float]:
        """(a worker's micro-batches of a global batch, all of one shape; the divisor of the whole batch's loss)."""
        ...

    def evaluate(self, model: Any, device: torch.device) -> dict[str, float]:
        """Metrics of the model on the validation rows, which the workers share; equal on every worker."""
        ...


def my_rows(count: int) -> np.ndarray:
    """The rows of `count` that this worker evaluates."""
    return np.arange(count)[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
