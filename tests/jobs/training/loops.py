"""The train loop on real workers: several runs share a worker group, each is watched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from cluster import checkpoint, engine, launch
from configs.folder import commit
from configs.loader import load
from configs.schema.compression import DistillStep, PruneSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import StudentSpec, TeacherSpec
from configs.schema.recipe import Recipe
from jobs.compression.steps.prune import zeroed
from jobs.data.preparation import prepare_student
from jobs.data.prepared import MANIFEST, ROWS, Prepared, PreparedSplit
from jobs.models import decoder, encoder
from jobs.models.decoder import Decoder
from jobs.models.reference import write_reference
from jobs.models.student import encoder_student
from jobs.training import loop
from jobs.training.fit import GoingOn, distill, finetune
from jobs.training.task import TrainingTask
from tests.jobs.training.modes import FURTHER, INTERRUPTED_AT
from tests.tiny.shop import write_encoder
from tests.tiny.ways import prepare

EPOCHS = 3
STORED = 8  # tokens of a decoder's teacher at each place
SPLITS: tuple[PreparedSplit, ...] = ("train", "validation")
ACCURACIES = {
    "encoder, worse at last": [0.5, 0.9, 0.2],
    "pruned student, rising": [0.9, 0.5, 0.2],
    "encoder, crash before a checkpoint": [0.5, 0.9, 0.2, 0.1],  # the second epoch, run again, goes otherwise
}
Facts = dict[str, Any]


def observe(config: dict[str, Any]) -> dict[str, Facts]:
    """Runs on every worker: one train loop after another."""
    return {name: observe_one(name, fit) for name, fit in config.items()}


def observe_one(name: str, config: dict[str, Any]) -> Facts:
    from deepspeed.accelerator import get_accelerator

    curve: list[float] = []
    heads: list[list[list[float]]] = []
    statistics: list[list[list[float]]] = []
    accuracies = list(ACCURACIES.get(name, []))
    steps = [0]  # begun in each epoch, those before and after an interruption together
    evaluate, save, train, load = loop.evaluate, checkpoint.save, engine.Engine.step, engine.Engine.load

    def watch(task: TrainingTask, model: torch.nn.Module, *rest: Any) -> dict[str, float]:
        heads.append(engine.gather(head(model)))
        running = [buffer.flatten() for buffer_name, buffer in model.named_buffers() if "running" in buffer_name]
        statistics.append(engine.gather(torch.cat(running).tolist() if running else []))
        steps.append(0)
        metrics = evaluate(task, model, *rest)
        return metrics | ({"validation_accuracy": accuracies.pop(0)} if accuracies else {})

    def save_or_crash(training: engine.Engine, folder: Path, epoch: int, *rest: Any) -> None:
        if name == "encoder, crash before a checkpoint" and len(heads) == 2:
            raise ConnectionError
        save(training, folder, epoch, *rest)

    def step_or_crash(training: engine.Engine, *arguments: Any) -> float:
        steps[-1] += 1
        if "interrupted" in name and (len(steps), steps[-1]) == (2, INTERRUPTED_AT):
            raise ConnectionError
        return train(training, *arguments)

    def load_otherwise(training: engine.Engine, folder: Path) -> dict[str, Any]:
        before = torch.get_rng_state()
        progress = load(training, folder)
        if "otherwise" in name:
            torch.set_rng_state(before)
        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.train.report", lambda metrics: None)  # it waits for Ray's next look, seconds later
        patch.setattr(loop, "evaluate", watch)
        patch.setattr(loop.checkpoint, "save", save_or_crash)
        patch.setattr(engine.Engine, "step", step_or_crash)
        patch.setattr(engine.Engine, "load", load_otherwise)
        if "fp16" in name:  # which torch computes on a CPU too, slowly
            patch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
        patch.setattr(loop.Pace, "epoch_done", lambda self, epoch, metrics, _: curve.append(metrics["train_loss"]))
        try:
            best = loop.train_loop(config)
        except ConnectionError:
            best = loop.train_loop(config)
    return {"best": best, "curve": curve, "heads": heads, "statistics": statistics, "steps": steps[:-1]}


def head(model: torch.nn.Module) -> list[float]:
    """The weights of the last layer, of a decoder a part of them; with adapters those of the last one."""
    if adapters := [weight for name, weight in model.named_parameters() if "lora_B" in name]:
        return adapters[-1].detach().flatten().tolist()
    if isinstance(model, Decoder):
        return model.lm.get_output_embeddings().weight.detach()[:, 0].tolist()  # pyright: ignore[reportOptionalMemberAccess]
    weight: torch.Tensor = model.get_submodule("head").weight  # pyright: ignore[reportAssignmentType]
    return weight.detach().flatten().tolist()


class Shop:
    """Prepared rows, and recipes that each write to a folder of their own."""

    def __init__(self, folder: Path, rows: Path, teacher: Path) -> None:
        self.folder, self.rows = folder, rows
        self.calm = shutil.copytree(teacher, folder / "calm")
        path = self.calm / "config.json"
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | still))
        self.foreign = write_encoder(folder / "foreign", layers=1, pieces=300)
        self.prepared: Prepared = prepare(self.recipe("prepared", []))
        self.completions: Prepared = prepare(self.recipe("decoder", []))
        self.give_teachers()

    def recipe(self, name: str, overrides: list[str]) -> Recipe:
        given = [
            f"output={folder_of(name)}",
            f"teacher.epochs={EPOCHS}",
            f"distillation.epochs={EPOCHS}",
            "engine.tokens_per_batch=512",
            "engine.max_failures=0",
            *overrides,
        ]
        if "teacher.dropout=0" in overrides:
            given += [f"teacher.model={self.calm}", "teacher.learning_rate=4e-3"]
        if " adapted" in name:
            given.append(f"{'student' if 'student' in name else 'teacher'}.adapter={{rank: 4, alpha: 16}}")
        if name.startswith("decoder adapted"):
            given += [f"teacher.model={self.folder / 'decoder-base'}", "teacher.new={}"]
        file = "completions.yaml" if name.startswith("decoder") else "recipe.yaml"
        return load(Recipe, self.rows / file, given).on_driver(self.folder, self.rows)

    def observe(self, workers: int, runs: dict[str, list[str]], gpu: bool = False) -> dict[str, Facts]:
        with pytest.MonkeyPatch.context() as patch:  # what `finetune` would tell the workers
            patch.setattr(launch, "fit", lambda train_loop, config, *rest: config)
            configs = {name: self.config(name, given) for name, given in runs.items()}
        spec = EngineSpec(workers=workers, cpus_per_worker=1, max_failures=0, use_gpu=gpu)
        return launch.fit(f"{__name__}:observe", configs, spec, self.folder / "ray")

    def config(self, name: str, given: list[str]) -> Any:
        prepared = self.completions if name.startswith("decoder") else self.prepared
        if "student" not in name:
            return finetune(self.recipe(name, given), prepared)
        of = "decoder" if name.startswith("decoder") else "encoder"
        kind = {
            "conv student": ["student.kind=conv", "student.hidden=16", "student.layers=2"],
            "foreign student": ["student.kind=pretrained", f"student.model={self.foreign}", "student.layers=3"],
        }.get(name.removesuffix(", gpu"), ["student.layers=2"])
        step = FURTHER.get(name.removesuffix(", gpu"))
        recipe = self.recipe(name, [*given, f"teacher.bundle={self.folder / of}-given", *kind])
        return distill(
            recipe,
            prepare_student(recipe, prepared),
            self.folder / f"{of}-outputs",
            Path(recipe.output or "", "student"),
            going_on=None if step is None else GoingOn(self.folder / "pruned", DistillStep(step="distill", **step)),
        )

    def give_teachers(self) -> None:
        """Of random weights whose outputs are random, for students to learn from."""
        torch.manual_seed(0)
        classes = len(self.prepared.labels)
        classifier = encoder.pretrained(TeacherSpec(model=str(self.calm)), self.prepared.labels)
        write_reference(self.folder / "encoder-given", classifier, self.prepared, "given", {}, {})
        pruned = zeroed(encoder_student(classifier, StudentSpec(layers=2)), PruneSpec(step="prune", sparsity=0.5), 0)
        write_reference(self.folder / "pruned", pruned, self.prepared, "given", {}, {})
        recipe = self.recipe("decoder", [])
        generator = decoder.pretrained(recipe.teacher, 400, recipe.data.max_length, self.completions.manifest["end"])
        write_reference(self.folder / "decoder-given", generator, self.completions, "given", {}, {})
        with torch.no_grad():  # weights through which an adapter's gradients are more than noise
            for weight in generator.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        write_reference(self.folder / "decoder-base", generator, self.completions, "given", {}, {})

        def logits(split: PreparedSplit) -> dict[str, Any]:
            rows = len(self.prepared.examples(split))
            logits_NC = 3 * torch.randn(rows, classes).numpy().astype(np.float16)
            logits = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.ravel(), pa.float16()), classes)
            offsets = pa.array(self.prepared.examples(split).offsets.astype(np.int32))
            inside = {
                name: pa.ListArray.from_arrays(offsets, noise(offsets[-1].as_py(), width))
                for name, width in (("hidden_3", 32), ("relations_3", 96))
            }
            return {"logits": logits, **inside}

        def noise(count: int, width: int) -> pa.FixedSizeListArray:
            numbers = torch.randn(count * width).numpy().astype(np.float16)
            return pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float16()), width)

        def tokens(split: PreparedSplit) -> dict[str, Any]:
            places = self.completions.examples(split).targets
            ids = torch.stack([torch.randperm(300)[:STORED] for _ in range(places.sum())])
            log_probs = F.log_softmax(3 * torch.randn(len(ids), STORED + 1), dim=-1)[:, :STORED]
            offsets = pa.array(np.concatenate([[0], np.cumsum(places)]).astype(np.int32))
            columns = {"ids": pa.array(ids.flatten().numpy().astype(np.int32))}
            columns["log_probs"] = pa.array(log_probs.flatten().numpy().astype(np.float16), pa.float16())
            return {
                name: pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(column, STORED))
                for name, column in columns.items()
            }

        self.give_outputs("encoder-outputs", self.prepared, logits)
        self.give_outputs("decoder-outputs", self.completions, tokens)

    def give_outputs(self, name: str, prepared: Prepared, columns: Callable[[PreparedSplit], dict[str, Any]]) -> None:
        def fill(aside: Path) -> dict[str, Any]:
            (aside / ROWS).mkdir()
            for split in SPLITS:
                rows = len(prepared.examples(split))
                table = {"split": [split] * rows, "row": range(rows), **columns(split)}
                pq.write_table(pa.table(table), aside / ROWS / f"{split}.parquet")
            return {}

        commit(self.folder / name, MANIFEST, fill)

    def student(self, name: str) -> Path:
        return self.folder / folder_of(name) / "student"

    def teacher(self, name: str) -> Path:
        return self.folder / folder_of(name) / "teacher"


def folder_of(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")
