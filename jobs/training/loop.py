"""The train loop of teachers and students: runs on every Ray worker, one worker drives one device."""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster import checkpoint, quiet
from cluster.engine import Engine, Named, gather
from cluster.outbox import Outbox
from cluster.session import JobError
from configs.folder import GOES_ON, no_room
from configs.loader import Spec
from configs.schema.compression import DistillStep
from configs.schema.engine import EngineSpec
from configs.schema.models import AdapterSpec, OptimizerSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS, named
from jobs.data.prepared import Prepared
from jobs.models.adapter import add_adapter, learning, merge_adapter
from jobs.models.attention import choose_attention
from jobs.models.reference import write_reference
from jobs.training.masks import Masks, release
from jobs.training.pace import Pace
from jobs.training.quantize_aware import Calibration, learn_rounded
from jobs.training.task import TrainingTask

FRESH = ("head.", "projections.", "last.")  # weights that no pretraining has seen


class Fit(Spec):
    """The config of a worker, as plain values."""

    recipe: Recipe
    role: Literal["teacher", "student"]
    prepared: str
    teacher: str | None = None
    teacher_outputs: str | None = None
    start: str | None = None  # reference bundle whose model learns on, in place of a new student
    step: DistillStep | None = None  # step of a compression that the training belongs to
    pool: str | None = None
    pool_outputs: str | None = None
    target: str
    work: str
    key: str
    run_id: str | None = None


@dataclass(frozen=True)
class Training:
    """One training run on this worker."""

    fit: Fit
    prepared: Prepared
    task: TrainingTask
    spec: OptimizerSpec
    model: nn.Module
    engine: Engine
    epochs: list[list[np.ndarray]]  # the global batches of each
    masks: Masks | None
    calibration: Calibration | None
    own_texts: Any  # of a student that writes some batches itself, see `jobs.tasks.generate.on_policy`; else None
    pace: Pace
    saves: Saves
    progress: dict[str, Any]  # what is done, as checkpoints hold it: epochs, batches of the next with the sum of losses

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes and reports."""
        return torch.distributed.get_rank() == 0

    @property
    def work(self) -> Path:
        """Folder of checkpoints and of the best epoch, private to this run."""
        return Path(self.fit.work)


def train_loop(config: dict[str, Any]) -> dict[str, float]:
    """Train, evaluate each epoch, keep the best epoch, write it as a reference bundle; returns its metrics."""
    logging.root.setLevel(logging.WARNING)  # Ray tells every report; its loggers are named by file, not by package
    training = build(Fit.model_validate(config))
    trained = train(training)
    finish(training, trained)
    return training.progress["best"]


def build(fit: Fit) -> Training:
    """The model under its engine, with optimizer and schedule, as new or as the last checkpoint left it."""
    recipe = fit.recipe
    prepared = Prepared.open(Path(fit.prepared), _path(fit.pool))
    torch.manual_seed(recipe.seed)
    spec = recipe.teacher if fit.role == "teacher" else recipe.distillation
    outputs = _path(fit.teacher_outputs), _path(fit.pool_outputs)
    task: TrainingTask = named(TASKS[recipe.task].trainer)(prepared, *outputs)
    model = _model(fit, task)

    # Schedules by step.
    epochs = [task.epoch(recipe.seed, epoch, recipe.engine) for epoch in range(spec.epochs)]
    steps = list(itertools.accumulate(map(len, epochs), initial=0))  # before each epoch, and in all
    masks = Masks(task.result(model), fit.step, steps[-1]) if fit.step and fit.step.keep_zeros else None
    calibration = Calibration(prepared, recipe) if _is_rounded(fit) else None
    if calibration:
        learn_rounded(task.result(model))

    # Engine and optimizer.
    engine = Engine(
        model,
        task.inputs,
        task.loss(model, spec.during(0)),
        functools.partial(_optimizer, spec=spec),
        functools.partial(_schedule, spec=spec, steps=steps[-1]),
        recipe.engine,
        task.layers,
    )

    # The last checkpoint.
    progress: dict[str, Any] = {"epoch": 0, "best": None, "batch": 0, "loss": 0.0}
    if recipe.engine.max_failures:
        progress |= checkpoint.restore(engine, Path(fit.work)) or {}
    done = steps[progress["epoch"]] + progress["batch"]
    if calibration and not done:  # later than that a checkpoint has the ranges
        calibration.fix_ranges(task.result(engine.module), engine.device)
    if masks:
        masks.done = done

    # Log and checkpoints.
    silent = torch.distributed.get_rank() != 0
    pace = Pace(fit.role, spec.epochs, task.lengths, steps[-1] - done, silent)
    saves = Saves(engine, Path(fit.work), recipe.engine)
    own = _own_texts(fit, prepared, engine.device)
    return Training(fit, prepared, task, spec, model, engine, epochs, masks, calibration, own, pace, saves, progress)


def _own_texts(fit: Fit, prepared: Prepared, device: torch.device) -> Any:
    maker = TASKS[fit.recipe.task].own_texts
    if fit.role == "teacher" or not fit.recipe.distillation.on_policy or maker is None:
        return None
    return named(maker)(prepared, fit.recipe, Path(fit.teacher or ""), device)


def _model(fit: Fit, task: TrainingTask) -> nn.Module:
    """The teacher or the student before training."""
    if fit.role == "teacher":
        model = task.teacher(fit.recipe)
    else:
        model = task.student(Path(fit.teacher or ""), fit.recipe, _path(fit.start))
    if not _is_rounded(fit):  # the rows that fix its ranges name tokens as the tokenizer does
        task.shrink_token_table(model)
    if (adapter := _adapter(fit)) is not None:
        add_adapter(task.result(model), adapter)
        if torch.distributed.get_rank() == 0:
            print(f"{fit.role}: {learning(model)} learn, by adapters of rank {adapter.rank}", flush=True)
    choose_attention(model, fit.recipe.engine)
    task.look_at(model, fit.role)
    return model


def _adapter(fit: Fit) -> AdapterSpec | None:
    """The adapter of a teacher or a new student; a step of a compression trains all weights."""
    if fit.step is not None:
        return None
    return fit.recipe.teacher.adapter if fit.role == "teacher" else fit.recipe.student.adapter


def _is_rounded(fit: Fit) -> bool:
    return fit.step is not None and fit.step.quantize_aware


def train(training: Training) -> nn.Module:
    """Run the epochs that are left, evaluate each and keep the best; returns the model as the last one left it."""
    import ray.train

    fit, task, engine, progress = training.fit, training.task, training.engine, training.progress
    output = Path(fit.recipe.output or "")
    record = Outbox(fit.run_id, output) if training.is_first and fit.run_id else None
    trained = task.result(training.model)
    try:
        for epoch in range(progress["epoch"], training.spec.epochs):
            loss = run_epoch(training, epoch)
            with quiet.at_work() if training.is_first else quiet.aside():
                if training.calibration:  # as the file will be, so that it is judged by its own ranges
                    training.calibration.fix_ranges(task.result(engine.module), engine.device)
                trained = task.result(engine.whole())
                metrics = evaluate(task, trained, engine.device)
            speed = training.pace.tokens_per_second
            metrics |= {"train_loss": loss, "tokens_per_second": speed, **engine.facts()}
            if training.own_texts:
                metrics |= training.own_texts.facts(epoch, len(training.epochs[epoch]))
            _keep_if_best(training, trained, metrics, epoch)
            progress |= {"epoch": epoch + 1, "batch": 0, "loss": 0.0}
            training.pace.epoch_done(epoch, metrics, task.ranked)
            if record:
                record.log(metrics, step=epoch + 1)
            if epoch + 1 < training.spec.epochs:
                training.saves.save(progress)
            ray.train.report(metrics)
    finally:
        if record:
            record.close()
    return trained


def run_epoch(training: Training, epoch: int) -> float:
    """Train one epoch, or the rest of it; returns the mean over its batches of the global loss."""
    task, engine, progress = training.task, training.engine, training.progress
    recipe, batches = training.fit.recipe, training.epochs[epoch]
    # Seeded by epoch, so that a resumed run drops out what the first would have (a checkpoint inside an epoch holds
    # the random state); workers with other rows differ, workers that split a layer do not.
    if not progress["batch"]:
        torch.manual_seed(recipe.seed + 1000 * (epoch + 1) + engine.data_rank)
    engine.minimise(task.loss(training.model, training.spec.during(epoch)))
    engine.module.train()
    total = progress["loss"] if training.is_first else 0.0
    for number, batch in enumerate(batches[progress["batch"] :], progress["batch"] + 1):
        split = engine.data_rank, engine.data_size, recipe.engine.accumulation
        with quiet.at_work() if training.is_first else quiet.aside():  # the others wait for the first worker anyway
            if training.own_texts and training.own_texts.chooses(epoch, number):
                micro, size = training.own_texts.parts(engine.module, batch, epoch, *split)
            else:
                micro, size = task.parts(batch, *split)
            total += engine.step(micro, size)
        if training.masks:
            training.masks.after_step()
        training.pace.step(batch)
        if number < len(batches) and training.saves.due():
            training.saves.save(progress | {"batch": number, "loss": sum(gather(total))})
    return sum(gather(total)) / len(batches)


def finish(training: Training, trained: nn.Module) -> None:
    """Write the best epoch as a reference bundle, from the first worker, and remove the checkpoints."""
    fit, recipe, best = training.fit, training.fit.recipe, training.progress["best"]
    if training.is_first:
        _take(trained, load_file(_best(training.work, int(best["best_epoch"]))))
        release(trained)
        provenance: dict[str, Any] = {"key": fit.key, "role": fit.role, "data": training.prepared.key}
        if (adapter := _adapter(fit)) is not None:
            merge_adapter(trained)
            provenance |= {"adapter": adapter.model_dump()}
        training.task.restore_token_table(trained)
        if fit.role == "student":
            model_id = None if recipe.teacher.bundle else recipe.teacher.model
            provenance |= {"student_spec": recipe.student.taken(), "teacher_model": model_id}
        write_reference(Path(fit.target), trained, training.prepared, recipe.name, best, provenance)
        shutil.rmtree(training.work, ignore_errors=True)
    torch.distributed.barrier()


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
    """AdamW; new weights have a rate of their own, norms and biases have no decay."""
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


def _keep_if_best(training: Training, trained: nn.Module, metrics: dict[str, float], epoch: int) -> None:
    """Note and keep an epoch that is at least as good as the best so far, once all zeros are there."""
    progress, ranked = training.progress, f"validation_{training.task.ranked}"
    settled = training.masks is None or training.masks.settled
    if settled and (progress["best"] is None or metrics[ranked] >= progress["best"][ranked]):
        progress["best"] = metrics | {"best_epoch": epoch + 1}
        if training.is_first:
            _keep(trained, training.work, epoch + 1)


def _keep(model: nn.Module, work: Path, epoch: int) -> None:
    """Keep the weights of an epoch: a run resumed from an earlier checkpoint needs the best epoch that it names.

    Weights that do not learn are left out. Those of later epochs are left from a run that was given up: this one began
    again, or from a checkpoint before them. Every weight is copied, as safetensors takes none that shares its memory
    with another.
    """
    work.mkdir(parents=True, exist_ok=True)
    aside = work / ".best.safetensors.partial"
    stays = _staying(model)
    weights = {name: each.detach().cpu().clone() for name, each in model.state_dict().items() if name not in stays}
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


def _take(model: nn.Module, kept: dict[str, Tensor]) -> None:
    """Give `model` the weights that `_keep` kept; those that do not learn are in it already."""
    stays = _staying(model)
    model.load_state_dict({name: each for name, each in model.state_dict().items() if name in stays} | kept)


def _staying(model: nn.Module) -> set[str]:
    """Names of the weights that do not learn."""
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}


def _best(work: Path, epoch: int) -> Path:
    return work / f"best-{epoch:04d}.safetensors"


class Saves:
    """The checkpoints of a run; none where max_failures is 0. All workers make the same calls."""

    def __init__(self, training: Engine, work: Path, spec: EngineSpec) -> None:
        self._training, self._work, self._spec = training, work, spec
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `checkpoint_seconds` are over since the last one, by the first worker's clock."""
        if not self._spec.max_failures:
            return False
        return self._training.first_says(time.monotonic() - self._last >= self._spec.checkpoint_seconds)

    def save(self, progress: dict[str, Any]) -> None:
        """Commit a checkpoint."""
        if self._spec.max_failures:
            checkpoint.save(self._training, self._work, progress["epoch"], progress, progress["batch"])
            self._last = time.monotonic()
