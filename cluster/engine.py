"""Training steps on DeepSpeed; no other module imports it.

The mathematics of a step does not depend on how many workers share it: the loss is the sum over examples divided
by the number of examples in the global batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from cluster.session import JobError
from cluster.spec import EngineSpec

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
TAG = "state"


class Engine:
    """A model under training on this worker; every worker makes the same calls."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        spec: EngineSpec,
    ) -> None:
        """`loss(model, batch)` gives one number per example, [B]; `schedule` moves once per global batch."""
        self._loss = loss
        self._parts = spec.accumulation
        self._world = torch.distributed.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if spec.use_gpu else torch.device("cpu")
        deepspeed = _deepspeed()
        self._engine, *_ = deepspeed.initialize(
            model=model.to(self.device),
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=_config(spec, self._world),
            dist_init_required=False,
        )
        if self._world == 1:  # else every gradient is copied to a flat buffer and back, to be added to nothing
            self._engine.enable_backward_allreduce = False

    @property
    def module(self) -> nn.Module:
        """The model itself, its weights current on every worker."""
        return self._engine.module

    def step(self, parts: Sequence[Batch], rows: int) -> float:
        """One optimizer step on this worker's `accumulation` micro-batches of a global batch of `rows` examples.

        A batch has `weight` [B]: 1 for an example, 0 for a filler. Returns the sum of this worker's losses divided
        by `rows`; over the workers these add up to the mean loss. Raises `JobError` on a loss that is not finite.
        """
        total = 0.0
        for part in parts:
            batch = {name: tensor.to(self.device) for name, tensor in part.items()}
            loss = (self._loss(self._engine, batch) * batch["weight"]).sum()
            total += loss.item()
            if not math.isfinite(total):
                raise JobError(f"the loss became {total}; lower the learning rate or look for broken rows")
            # DeepSpeed divides by the number of micro-batches and averages over workers; both are undone here
            self._engine.backward(loss * (self._parts * self._world / rows))
            self._engine.step()
        return total / rows

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        """Everything a resumed run needs, from every worker into one folder. Holds pickles: private to the run."""
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state={"progress": progress}, save_latest=False)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take up what `save` left; returns its `progress`."""
        _, state = self._engine.load_checkpoint(str(folder), tag=TAG)
        return state["progress"]  # among entries of DeepSpeed's own, which the next `save` must not write again


def gather(value: Any) -> list[Any]:
    """Each worker's `value`, in the order of ranks, on every worker."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _config(spec: EngineSpec, world: int) -> dict[str, Any]:
    # One worker has nothing to split; stage 1 would copy every gradient into a flat buffer (1.6x a MiniLM CPU step).
    stage = spec.zero_stage if world > 1 else 0
    return {
        "train_micro_batch_size_per_gpu": 1,  # nominal: batches are counted in tokens and differ in rows
        "gradient_accumulation_steps": spec.accumulation,
        "zero_optimization": {"stage": stage},
        "gradient_clipping": spec.gradient_clipping,
        "torch_autocast": {"enabled": spec.precision == "bf16_autocast", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _deepspeed() -> Any:
    import logging

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops

    # On CPU DeepSpeed would compile a shared-memory collective with g++ while the job waits; gloo does the work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
    return deepspeed
