"""The train loop of teachers and students: runs on every Ray worker, one worker drives one device."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from torch import nn

from cluster import checkpoint, engine, quiet, tracking
from cluster.engine import Engine, Named
from configs.loader import Spec, UsageError
from jobs.data.batches import collate, global_batches, shard
from jobs.data.prepared import Examples, Prepared
from jobs.models import encoder
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.models.reference import write_reference
from jobs.models.spec import OptimizerSpec
from jobs.models.stages import encoder_layers
from jobs.models.student import build_student
from jobs.recipe import Recipe
from jobs.tasks import classify
from jobs.training.loss import balanced_weights, distill_loss, label_loss
from jobs.training.outputs import read_outputs
from jobs.training.spec import DistillationSpec
from serving.runtime import cut

SECONDS_BETWEEN_LINES = 10
EVALUATION_TOKENS = 4096  # a batch without gradients


class Fit(Spec):
    """What a worker is told, as plain values."""

    recipe: Recipe
    role: Literal["teacher", "student"]
    prepared: str
    teacher: str | None = None
    teacher_outputs: str | None = None
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
    prepared = Prepared.open(Path(fit.prepared))
    train, validation = prepared.examples("train"), prepared.examples("validation")
    torch.manual_seed(recipe.seed)
    model, spec = _model(fit, prepared.labels)
    teacher_NC = None if fit.teacher_outputs is None else read_outputs(Path(fit.teacher_outputs), "train")
    epochs = [
        global_batches(train.lengths, recipe.seed, epoch, recipe.engine.tokens_per_batch)
        for epoch in range(spec.epochs)
    ]
    training = Engine(
        model,
        INPUTS,
        _loss(model, spec, train.labels, len(prepared.labels)),
        functools.partial(_optimizer, spec=spec),
        functools.partial(_schedule, spec=spec, steps=sum(map(len, epochs))),
        recipe.engine,
        encoder_layers,
    )
    work = Path(fit.work)
    progress = (checkpoint.restore(training, work) if recipe.engine.max_failures else None) or {
        "epoch": 0,
        "best": None,
    }
    record = tracking.MetricLog(fit.run_id) if first and fit.run_id else None
    pace = Pace(fit.role, spec.epochs, epochs, train.lengths, progress["epoch"], silent=not first)
    try:
        for epoch in range(progress["epoch"], spec.epochs):
            # By epoch, so that a resumed run drops out what the first would have; workers with other rows differ,
            # workers that split a layer do not.
            torch.manual_seed(recipe.seed + 1000 * (epoch + 1) + training.data_rank)
            loss = _epoch(training, train, teacher_NC, epochs[epoch], recipe.engine.accumulation, pace)
            with quiet.at_work() if first else nullcontext():
                model = _module(training.whole())
                metrics = evaluate(model, validation, training.device)
            metrics |= {"train_loss": loss, "tokens_per_second": pace.tokens_per_second}
            if (
                progress["best"] is None
                or metrics[f"validation_{classify.METRIC}"] >= progress["best"][f"validation_{classify.METRIC}"]
            ):
                progress["best"] = metrics | {"best_epoch": epoch + 1}
                if first:
                    _keep(model, work, epoch + 1)
            progress["epoch"] = epoch + 1
            pace.epoch_done(epoch, metrics)
            if record:
                record.log(metrics, step=epoch + 1)
            if recipe.engine.max_failures and epoch + 1 < spec.epochs:
                checkpoint.save(training, work, epoch + 1, progress)
            ray.train.report(metrics)
    finally:
        if record:
            record.close()
    if first:
        model.load_state_dict(_kept(work, int(progress["best"]["best_epoch"])))
        write_reference(
            Path(fit.target), model, prepared, recipe.name, progress["best"], {"key": fit.key, "role": fit.role}
        )
        shutil.rmtree(work, ignore_errors=True)
    torch.distributed.barrier()
    return progress["best"]


def evaluate(model: nn.Module, examples: Examples, device: torch.device) -> dict[str, float]:
    """Metrics of `model` in float32 over all examples, which the workers share; equal on every worker."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    mine = np.arange(len(examples))[rank::world]
    predicted = predict(_module(model), examples, mine, device)
    gathered = engine.gather((mine, predicted))
    everywhere = np.empty(len(examples), dtype=np.int64)
    for rows, numbers in gathered:
        everywhere[rows] = numbers
    return {f"validation_{name}": value for name, value in classify.metrics(everywhere, examples.labels).items()}


def predict(model: nn.Module, examples: Examples, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Class numbers of some rows, [len(rows)]."""
    predicted = np.empty(len(rows), dtype=np.int64)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for chosen in cut(examples.lengths[rows].tolist(), EVALUATION_TOKENS):
            batch = collate(examples, rows[chosen], int(examples.lengths[rows[chosen]].max()))
            logits_BC = model(**{name: batch[name].to(device) for name in INPUTS})
            predicted[chosen] = logits_BC.argmax(-1).cpu().numpy()
    model.train(was_training)
    return predicted


def _model(fit: Fit, labels: list[str]) -> tuple[EncoderClassifier, OptimizerSpec]:
    if fit.role == "teacher":
        return encoder.pretrained(fit.recipe.teacher, labels), fit.recipe.teacher
    assert fit.teacher is not None
    return build_student(encoder.load(Path(fit.teacher)), fit.recipe.student), fit.recipe.distillation


def _loss(model: EncoderClassifier, spec: OptimizerSpec, labels: np.ndarray, classes: int) -> engine.Loss:
    graded = not isinstance(model.classes, int)
    if graded and spec.label_smoothing:
        raise UsageError(f"label_smoothing={spec.label_smoothing:g}: a squared error to a grade has none; use 0")
    weight_C = balanced_weights(labels, classes) if spec.class_weights == "balanced" else None
    if isinstance(spec, DistillationSpec):
        return lambda logits_BC, batch: distill_loss(
            logits_BC, batch["teacher_logits"], batch["label"], spec, weight_C, graded
        )
    return lambda logits_BC, batch: label_loss(logits_BC, batch["label"], spec.label_smoothing, weight_C, graded)


def _optimizer(named: Named, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """AdamW; head and encoder at their own rates, no decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        groups.setdefault((name.startswith("head."), weight.ndim > 1), []).append(weight)
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
    examples: Examples,
    teacher_NC: np.ndarray | None,
    batches: Sequence[np.ndarray],
    parts: int,
    pace: Pace,
) -> float:
    """One pass; returns the mean over batches of the global loss."""
    first, workers = torch.distributed.get_rank() == 0, training.data_size
    training.module.train()
    total = 0.0
    for batch in batches:
        length = int(examples.lengths[batch].max())  # of the global batch, the same on every worker
        count = -(-len(batch) // (workers * parts))
        micro = []
        for rows in shard(batch, training.data_rank, workers, parts):
            part = collate(examples, rows, length, count)
            if teacher_NC is not None:
                logits = np.zeros((count, teacher_NC.shape[1]), dtype=np.float32)
                logits[: len(rows)] = teacher_NC[rows]
                part["teacher_logits"] = torch.from_numpy(logits)
            micro.append(part)
        with quiet.at_work() if first else nullcontext():  # the other workers wait for this one anyway
            total += training.step(micro, len(batch))
        pace.step(batch)
    return sum(engine.gather(total)) / len(batches)


def _keep(model: nn.Module, work: Path, epoch: int) -> None:
    """By epoch: a run resumed from a checkpoint before this one goes on with the best that the checkpoint names."""
    from safetensors.torch import save_file

    work.mkdir(parents=True, exist_ok=True)
    aside = work / ".best.safetensors.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in _module(model).state_dict().items()}, aside)
    aside.replace(_best(work, epoch))
    for old in sorted(work.glob("best-*"))[: -checkpoint.KEPT - 1]:
        old.unlink()


def _kept(work: Path, epoch: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(_best(work, epoch))


def _best(work: Path, epoch: int) -> Path:
    return work / f"best-{epoch:04d}.safetensors"


def _module(model: nn.Module) -> EncoderClassifier:
    assert isinstance(model, EncoderClassifier)
    return model


class Pace:
    """Progress of a run as log lines: loss by epoch, real tokens per second, time to go."""

    def __init__(
        self, role: str, epochs: int, batches: list[list[np.ndarray]], lengths: np.ndarray, done: int, silent: bool
    ) -> None:
        self._role, self._epochs, self._lengths, self._silent = role, epochs, lengths, silent
        self._total = sum(map(len, batches[done:]))
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

    def epoch_done(self, epoch: int, metrics: dict[str, float]) -> None:
        """One epoch is done and evaluated."""
        if not self._silent:
            shown = f"loss {metrics['train_loss']:.4f}, validation accuracy {metrics['validation_accuracy']:.4f}"
            self._say(f"epoch {epoch + 1}/{self._epochs}: {shown}")

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding excluded, of all workers, since the start."""
        return self._tokens / max(1e-9, time.monotonic() - self._started)

    def _say(self, text: str) -> None:
        left = (time.monotonic() - self._started) / max(1, self._steps) * (self._total - self._steps)
        print(f"{self._role}: {text}, {self.tokens_per_second:,.0f} tokens/s, {left:.0f} s to go", flush=True)
