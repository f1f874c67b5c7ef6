"""The train loop of teachers and students: runs on every Ray worker, one worker drives one device."""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cluster import checkpoint, engine, quiet
from cluster.engine import Engine, Named
from cluster.outbox import Outbox
from cluster.session import JobError
from configs.folder import GOES_ON, no_room
from configs.loader import Spec
from configs.schema.compression import DistillStep
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS, named
from jobs.data.prepared import Prepared
from jobs.models.attention import choose_attention
from jobs.models.reference import write_reference
from jobs.training.masks import Masks, release
from jobs.training.quantize_aware import Calibration, learn_rounded
from jobs.training.task import TrainingTask

SECONDS_BETWEEN_LINES = 10
FRESH = ("head.", "projections.", "last.")  # weights that no pretraining has seen


class Fit(Spec):
    """What a worker is told, as plain values."""

    recipe: Recipe
    role: Literal["teacher", "student"]
    prepared: str
    teacher: str | None = None
    teacher_outputs: str | None = None
    start: str | None = None  # reference bundle that a student goes on from, instead of one of the recipe's kind
    step: DistillStep | None = None  # of the compression that it is under
    pool: str | None = None
    pool_outputs: str | None = None
    target: str
    work: str
    key: str
    run_id: str | None = None


def train_loop(config: dict[str, Any]) -> dict[str, float]:
    """Train, evaluate each epoch, keep the best epoch, write it as a reference bundle; returns its metrics."""
    import ray.train

    logging.root.setLevel(logging.WARNING)  # Ray tells every report; its loggers are named by file, not by package
    fit = Fit.model_validate(config)
    recipe, first = fit.recipe, torch.distributed.get_rank() == 0
    prepared = Prepared.open(Path(fit.prepared), _path(fit.pool))
    torch.manual_seed(recipe.seed)
    spec = recipe.teacher if fit.role == "teacher" else recipe.distillation
    outputs = _path(fit.teacher_outputs), _path(fit.pool_outputs)
    task: TrainingTask = named(TASKS[recipe.task].trainer)(prepared, *outputs)
    if fit.role == "teacher":
        model = task.teacher(recipe)
    else:
        model = task.student(Path(fit.teacher or ""), recipe, _path(fit.start))
    rounded = fit.step is not None and fit.step.quantize_aware
    if not rounded:  # the rows that fix its ranges name tokens as the tokenizer does
        task.shrink_token_table(model)
    choose_attention(model, recipe.engine)
    epochs = [task.epoch(recipe.seed, epoch, recipe.engine) for epoch in range(spec.epochs)]
    steps = list(itertools.accumulate(map(len, epochs), initial=0))  # before each epoch, and in all
    zeros = Masks(task.result(model), fit.step, steps[-1]) if fit.step and fit.step.keep_zeros else None
    calibration = Calibration(prepared, recipe) if rounded else None
    if rounded:
        learn_rounded(task.result(model))
    training = Engine(
        model,
        task.inputs,
        task.loss(model, spec.during(0)),
        functools.partial(_optimizer, spec=spec),
        functools.partial(_schedule, spec=spec, steps=steps[-1]),
        recipe.engine,
        task.layers,
    )
    work = Path(fit.work)
    progress: dict[str, Any] = {"epoch": 0, "best": None}
    progress |= {"batch": 0, "loss": 0.0}  # batches of this epoch that are done, the sum of their losses
    if recipe.engine.max_failures:
        progress |= checkpoint.restore(training, work) or {}
    done = steps[progress["epoch"]] + progress["batch"]
    if calibration and not done:  # later than that a checkpoint has them
        calibration.fix_ranges(task.result(training.module), training.device)
    if zeros:
        zeros.done = done
    record = Outbox(fit.run_id, Path(recipe.output or "")) if first and fit.run_id else None
    pace = Pace(fit.role, spec.epochs, task.lengths, steps[-1] - done, silent=not first)
    saves = Saves(training, work, recipe.engine)
    ranked = f"validation_{task.ranked}"
    trained = task.result(model)
    try:
        for epoch in range(progress["epoch"], spec.epochs):
            # By epoch, so that a resumed run drops out what the first would have (a checkpoint inside an epoch holds
            # where it was); workers with other rows differ, workers that split a layer do not.
            if not progress["batch"]:
                torch.manual_seed(recipe.seed + 1000 * (epoch + 1) + training.data_rank)
            training.minimise(task.loss(model, spec.during(epoch)))
            loss = _epoch(training, task, epochs[epoch], recipe.engine.accumulation, pace, zeros, saves, progress)
            with quiet.at_work() if first else quiet.aside():
                if calibration:  # as the file will be, so that it is judged by its own ranges
                    calibration.fix_ranges(task.result(training.module), training.device)
                trained = task.result(training.whole())
                metrics = evaluate(task, trained, training.device)
            metrics |= {"train_loss": loss, "tokens_per_second": pace.tokens_per_second, **training.facts()}
            settled = zeros is None or zeros.settled
            if settled and (progress["best"] is None or metrics[ranked] >= progress["best"][ranked]):
                progress["best"] = metrics | {"best_epoch": epoch + 1}
                if first:
                    _keep(trained, work, epoch + 1)
            progress |= {"epoch": epoch + 1, "batch": 0, "loss": 0.0}
            pace.epoch_done(epoch, metrics, task.ranked)
            if record:
                record.log(metrics, step=epoch + 1)
            if epoch + 1 < spec.epochs:
                saves.save(progress)
            ray.train.report(metrics)
    finally:
        if record:
            record.close()
    if first:
        trained.load_state_dict(load_file(_best(work, int(progress["best"]["best_epoch"]))))
        release(trained)
        task.restore_token_table(trained)
        provenance: dict[str, Any] = {"key": fit.key, "role": fit.role, "data": prepared.key}
        if fit.role == "student":
            model_id = None if recipe.teacher.bundle else recipe.teacher.model
            provenance |= {"student_spec": recipe.student.taken(), "teacher_model": model_id}
        write_reference(Path(fit.target), trained, prepared, recipe.name, progress["best"], provenance)
        shutil.rmtree(work, ignore_errors=True)
    torch.distributed.barrier()
    return progress["best"]


def evaluate(task: TrainingTask, model: nn.Module, device: torch.device) -> dict[str, float]:
    """The task's metrics on the validation rows, by names that say so."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        metrics = task.evaluate(model, device)
    model.train(was_training)
    return {f"validation_{name}": value for name, value in metrics.items()}


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def _optimizer(named: Named, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """AdamW; what is new and the encoder at their own rates, no decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        groups.setdefault((name.removeprefix("student.").startswith(FRESH), weight.ndim > 1), []).append(weight)
    rates = {False: spec.learning_rate, True: spec.head_learning_rate}
    return torch.optim.AdamW(
        [
            {"params": weights, "lr": rates[head], "weight_decay": spec.weight_decay if matrix else 0.0}
            for (head, matrix), weights in groups.items()
        ],
        fused=True,
    )


def _schedule(
    optimizer: torch.optim.Optimizer, spec: OptimizerSpec, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up and decay to zero."""
    from transformers import get_linear_schedule_with_warmup

    return get_linear_schedule_with_warmup(optimizer, int(steps * spec.warmup), steps)


def _epoch(
    training: Engine,
    task: TrainingTask,
    batches: Sequence[np.ndarray],
    parts: int,
    pace: Pace,
    zeros: Masks | None,
    saves: Saves,
    progress: dict[str, Any],
) -> float:
    """One pass, or the rest of one; returns the mean over batches of the global loss."""
    first = torch.distributed.get_rank() == 0
    training.module.train()
    total = progress["loss"] if first else 0.0
    for number, batch in enumerate(batches[progress["batch"] :], progress["batch"] + 1):
        micro, size = task.parts(batch, training.data_rank, training.data_size, parts)
        with quiet.at_work() if first else quiet.aside():  # the other workers wait for this one anyway
            total += training.step(micro, size)
        if zeros:
            zeros.after_step()
        pace.step(batch)
        if number < len(batches) and saves.due():
            saves.save(progress | {"batch": number, "loss": sum(engine.gather(total))})
    return sum(engine.gather(total)) / len(batches)


def _keep(model: nn.Module, work: Path, epoch: int) -> None:
    """By epoch: a run resumed from a checkpoint before this one goes on with the best that the checkpoint names.

    Those of later epochs are of a run that was given up: this one began again, or from a checkpoint before them.
    Every weight is copied, as safetensors takes none that shares its memory with another.
    """
    work.mkdir(parents=True, exist_ok=True)
    aside = work / ".best.safetensors.partial"
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, aside)
    except (OSError, SafetensorError) as error:
        reason = no_room(error, aside)
        aside.unlink(missing_ok=True)
        if reason:
            raise JobError(f"{_best(work, epoch)}: not written: {reason}; {GOES_ON}") from error
        raise
    aside.replace(_best(work, epoch))
    kept = sorted(work.glob("best-*"))
    until = kept.index(_best(work, epoch)) + 1
    for other in kept[: max(0, until - checkpoint.KEPT - 1)] + kept[until:]:
        other.unlink()


def _best(work: Path, epoch: int) -> Path:
    return work / f"best-{epoch:04d}.safetensors"


class Saves:
    """The checkpoints of a run; none where it is not started again. All workers make the same calls."""

    def __init__(self, training: Engine, work: Path, spec: EngineSpec) -> None:
        self._training, self._work, self._spec = training, work, spec
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `checkpoint_seconds` are over since the last one, by the first worker's clock."""
        if not self._spec.max_failures:
            return False
        return self._training.first_says(time.monotonic() - self._last >= self._spec.checkpoint_seconds)

    def save(self, progress: dict[str, Any]) -> None:
        """Commit one."""
        if self._spec.max_failures:
            checkpoint.save(self._training, self._work, progress["epoch"], progress, progress["batch"])
            self._last = time.monotonic()


class Pace:
    """Progress of a run as log lines: loss by epoch, real tokens per second, time to go."""

    def __init__(self, role: str, epochs: int, lengths: np.ndarray, steps: int, silent: bool) -> None:
        """`steps`: that are left."""
        self._role, self._epochs, self._lengths, self._silent = role, epochs, lengths, silent
        self._total = steps
        self._steps, self._tokens = 0, 0
        self._started = self._spoke = time.monotonic()

    def step(self, batch: np.ndarray) -> None:
        """One global batch is done."""
        self._steps += 1
        self._tokens += int(self._lengths[batch].sum())
        now = time.monotonic()
        if not self._silent and now - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = now
            self._say(f"step {self._steps}/{self._total}")

    def epoch_done(self, epoch: int, metrics: dict[str, float], ranked: str) -> None:
        """One epoch is done and evaluated; `ranked` is the metric to tell."""
        if not self._silent:
            value = metrics[f"validation_{ranked}"]
            shown = f"loss {metrics['train_loss']:.4f}, validation {ranked.replace('_', ' ')} {value:.4f}"
            self._say(f"epoch {epoch + 1}/{self._epochs}: {shown}")

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding excluded, of all workers, since the start."""
        return self._tokens / max(1e-9, time.monotonic() - self._started)

    def _say(self, text: str) -> None:
        left = (time.monotonic() - self._started) / max(1, self._steps) * (self._total - self._steps)
        print(f"{self._role}: {text}, {self.tokens_per_second:,.0f} tokens/s, {left:.0f} s to go", flush=True)
