"""The train loop on real workers: several runs share a worker group, and one is killed and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import jobs.finetune
from cluster import checkpoint, engine, launch, session
from cluster.record import Cluster
from cluster.session import JobError
from cluster.spec import EngineSpec
from configs.folder import commit
from configs.loader import load
from jobs.data.prepared import MANIFEST, ROWS, Prepared
from jobs.distill import distill
from jobs.finetune import finetune, teacher_folder
from jobs.models import encoder
from jobs.models.reference import write_reference
from jobs.models.spec import TeacherSpec
from jobs.prepare import prepare
from jobs.recipe import Recipe
from jobs.training import loop
from serving.bundle import read_bundle

EPOCHS = 3
CALM = ["teacher.dropout=0", "engine.precision=fp32"]
ONE_WORKER = {
    "plain": CALM,
    "accumulated": [*CALM, "engine.accumulation=2"],
    "bf16": ["teacher.dropout=0", "engine.precision=bf16_autocast"],
    "worse at last": CALM,
    "crash before a checkpoint": [*CALM, "engine.max_failures=1"],
    "never killed": ["engine.max_failures=1"],
    "distilled": CALM,
    "bf16 weights": ["teacher.dropout=0", "engine.precision=bf16"],
    "activations computed twice": [*CALM, "engine.activation_checkpointing=true"],
    "offloaded": [*CALM, "engine.zero_stage=3", "engine.offload=all"],
}
PAIR = [*CALM, "engine.workers=2"]
TWO_WORKERS = {
    **{f"zero {stage}": [*PAIR, f"engine.zero_stage={stage}"] for stage in range(4)},
    "pipeline accumulated": [*PAIR, "engine.pipeline_stages=2", "engine.accumulation=4"],
    "distilled, pipeline": [*PAIR, "engine.pipeline_stages=2", "engine.accumulation=2"],
    "tensor": [*PAIR, "engine.tensor_parallel=2"],  # these last: what DeepSpeed keeps of them no other mode can use
}
FOUR = [*CALM, "engine.workers=4"]
FOUR_WORKERS = {
    "zero 3 accumulated": [*FOUR, "engine.zero_stage=3", "engine.accumulation=2"],
    "distilled, zero 3": [*FOUR, "engine.zero_stage=3"],
    "pipeline x data, activations computed twice": [
        *FOUR,
        "engine.pipeline_stages=2",
        "engine.activation_checkpointing=true",
    ],
    "pipeline x data": [*FOUR, "engine.pipeline_stages=2", "engine.accumulation=2"],
    "distilled, pipeline x data": [*FOUR, "engine.pipeline_stages=2", "engine.accumulation=2"],
    "four stages": [*FOUR, "engine.pipeline_stages=4", "engine.accumulation=4"],
    "tensor x data": [*FOUR, "engine.tensor_parallel=2", "engine.zero_stage=1"],
    "distilled, tensor x data": [*FOUR, "engine.tensor_parallel=2", "engine.zero_stage=1"],
}
ACCURACIES = {
    "worse at last": [0.5, 0.9, 0.2],
    "crash before a checkpoint": [0.5, 0.9, 0.2, 0.1],  # the second epoch, run again, goes otherwise
}
Facts = dict[str, Any]


def observe(config: dict[str, Any]) -> dict[str, Facts]:
    """Runs on every worker: one train loop after another."""
    return {name: observe_one(name, fit) for name, fit in config.items()}


def observe_one(name: str, config: dict[str, Any]) -> Facts:
    curve: list[float] = []
    heads: list[list[list[float]]] = []
    accuracies = list(ACCURACIES.get(name, []))
    evaluate, save = loop.evaluate, checkpoint.save

    def watch(model: torch.nn.Module, *rest: Any) -> dict[str, float]:
        heads.append(engine.gather(head(loop._module(model))))
        metrics = evaluate(model, *rest)
        return metrics | ({"validation_accuracy": accuracies.pop(0)} if accuracies else {})

    def save_or_crash(training: engine.Engine, folder: Path, epoch: int, progress: dict[str, Any]) -> None:
        if name == "crash before a checkpoint" and len(heads) == 2:
            raise ConnectionError
        save(training, folder, epoch, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.train.report", lambda metrics: None)  # it waits for Ray's next look, seconds later
        patch.setattr(loop, "evaluate", watch)
        patch.setattr(loop.checkpoint, "save", save_or_crash)
        patch.setattr(loop.Pace, "epoch_done", lambda self, epoch, metrics: curve.append(metrics["train_loss"]))
        try:
            best = loop.train_loop(config)
        except ConnectionError:
            best = loop.train_loop(config)
    return {"best": best, "curve": curve, "heads": heads}


def train_and_be_killed_once(config: dict[str, Any]) -> dict[str, float]:
    """Runs on the worker, whose process ends when its second epoch begins; `epochs` notes those that were begun."""
    notes = Path(config["work"]).parent / "epochs"
    train_epoch = loop._epoch

    def note(*arguments: Any) -> float:
        begun = notes.read_text().count("\n") if notes.exists() else 0
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a") as file:
            file.write(f"{[len(batch) for batch in arguments[3]]}\n")
        if begun == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_epoch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_epoch", note)
        return loop.train_loop(config)


def head(model: encoder.EncoderClassifier) -> list[float]:
    return model.head.weight.detach().flatten().tolist()


class Shop:
    """Prepared rows, and recipes that each write to a folder of their own."""

    def __init__(self, folder: Path, rows: Path, teacher: Path) -> None:
        self.folder, self.rows = folder, rows
        self.calm = shutil.copytree(teacher, folder / "calm")
        path = self.calm / "config.json"
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | still))
        self.prepared: Prepared = prepare(self.recipe("prepared", []))
        self.give_a_teacher()

    def recipe(self, name: str, overrides: list[str]) -> Recipe:
        given = [
            f"output={folder_of(name)}",
            f"teacher.epochs={EPOCHS}",
            f"distillation.epochs={EPOCHS}",
            "engine.tokens_per_batch=256",
            "engine.max_failures=0",
            *overrides,
        ]
        if "teacher.dropout=0" in overrides:
            given.append(f"teacher.model={self.calm}")
        return load(Recipe, self.rows / "recipe.yaml", given).on_driver(self.folder, self.rows)

    def observe(self, workers: int, runs: dict[str, list[str]]) -> dict[str, Facts]:
        with pytest.MonkeyPatch.context() as patch:  # what `finetune` would tell the workers
            patch.setattr(launch, "fit", lambda train_loop, config, *rest: config)
            configs = {name: self.config(name, given) for name, given in runs.items()}
        spec = EngineSpec(workers=workers, cpus_per_worker=1, max_failures=0)
        return launch.fit(f"{__name__}:observe", configs, spec, self.folder / "ray")

    def config(self, name: str, given: list[str]) -> Any:
        if not name.startswith("distilled"):
            return finetune(self.recipe(name, given), self.prepared)
        recipe = self.recipe(name, [*given, f"teacher.bundle={self.folder / 'given'}", "student.layers=2"])
        return distill(recipe, self.prepared, self.folder / "outputs", Path(recipe.output or "", "student"))

    def give_a_teacher(self) -> None:
        """One of random weights whose outputs are random, for students to learn from."""
        torch.manual_seed(0)
        classes = len(self.prepared.labels)
        model = encoder.pretrained(TeacherSpec(model=str(self.calm)), self.prepared.labels)
        write_reference(self.folder / "given", model, self.prepared, "given", {}, {})
        logits_NC = 3 * torch.randn(sum(self.prepared.manifest["rows"].values()), classes).numpy().astype(np.float16)
        splits = [(split, row) for split, rows in self.prepared.manifest["rows"].items() for row in range(rows)]

        def fill(aside: Path) -> dict[str, Any]:
            (aside / ROWS).mkdir()
            logits = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.ravel(), pa.float16()), classes)
            table = {"split": [split for split, _ in splits], "row": [row for _, row in splits], "logits": logits}
            pq.write_table(pa.table(table), aside / ROWS / "0.parquet")
            return {}

        commit(self.folder / "outputs", MANIFEST, fill)

    def teacher(self, name: str) -> Path:
        return self.folder / folder_of(name) / "teacher"


def folder_of(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


@pytest.fixture(scope="module")
def shop(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, shop_folder: Path, tiny_teacher: Path) -> Shop:
    session.connect()
    return Shop(tmp_path_factory.mktemp("loop"), shop_folder, tiny_teacher)


@pytest.fixture(scope="module")
def one(shop: Shop) -> dict[str, Facts]:
    return shop.observe(1, ONE_WORKER)


@pytest.fixture(scope="module")
def two(shop: Shop) -> dict[str, Facts]:
    return shop.observe(2, TWO_WORKERS)


@pytest.fixture(scope="module")
def four(shop: Shop) -> dict[str, Facts]:
    return shop.observe(4, FOUR_WORKERS)


def test_training_learns(one: dict[str, Facts]):
    first, *_, last = one["plain"]["curve"]
    assert last < 0.8 * first
    assert one["plain"]["best"]["validation_accuracy"] > 0.35  # of five classes, equally many rows


@pytest.mark.parametrize("mode", ["accumulated", "activations computed twice", "offloaded"])
def test_how_a_step_is_computed_changes_nothing(one: dict[str, Facts], mode: str):
    assert one[mode]["curve"] == pytest.approx(one["plain"]["curve"], rel=1e-4)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_learn_what_one_does(one: dict[str, Facts], two: dict[str, Facts], mode: str):
    assert_alike(two[mode], one["distilled" if mode.startswith("distilled") else "plain"])


@pytest.mark.parallel
@pytest.mark.parametrize("mode", FOUR_WORKERS)
def test_four_workers_learn_what_one_does(one: dict[str, Facts], four: dict[str, Facts], mode: str):
    assert_alike(four[mode], one["distilled" if mode.startswith("distilled") else "plain"])


def assert_alike(seen: Facts, reference: Facts) -> None:
    """Losses by epoch, the choice of the best and the head of that model."""
    assert seen["curve"] == pytest.approx(reference["curve"], rel=1e-4)
    assert seen["best"]["best_epoch"] == reference["best"]["best_epoch"]
    assert seen["best"]["validation_accuracy"] == pytest.approx(reference["best"]["validation_accuracy"])
    for heads, (expected, *_) in zip(seen["heads"], reference["heads"], strict=True):
        assert heads[0] == pytest.approx(expected, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_hold_the_same_weights_after_every_epoch(two: dict[str, Facts], mode: str):
    assert len(two[mode]["heads"]) == EPOCHS
    assert all(first == second for first, second in two[mode]["heads"])


@pytest.mark.parametrize("mode", ["bf16", "bf16 weights"])
def test_bf16_learns_nearly_the_same(one: dict[str, Facts], mode: str):
    assert one[mode]["curve"] != one["plain"]["curve"]
    assert one[mode]["curve"] == pytest.approx(one["plain"]["curve"], rel=0.05)


def test_the_bundle_holds_the_best_epoch_not_the_last(shop: Shop, one: dict[str, Facts]):
    seen = one["worse at last"]
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (2, 0.9)
    assert read_bundle(shop.teacher("worse at last")).metrics == seen["best"]
    assert [head(encoder.load(shop.teacher("worse at last")))] == seen["heads"][1]


def test_after_a_crash_the_bundle_holds_the_epoch_whose_metrics_it_states(shop: Shop, one: dict[str, Facts]):
    """The second epoch was the best and was kept, but no checkpoint knew of it; run again, it was not."""
    seen = one["crash before a checkpoint"]
    assert len(seen["heads"]) == EPOCHS + 1
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (1, 0.5)
    assert [head(encoder.load(shop.teacher("crash before a checkpoint")))] == seen["heads"][0]


def test_a_finished_run_leaves_no_work_behind(shop: Shop, one: dict[str, Facts]):
    assert not list(shop.folder.glob("*/.work/teacher-*"))


def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_model(
    shop: Shop, one: dict[str, Facts], monkeypatch: pytest.MonkeyPatch
):
    recipe = shop.recipe("killed", ["engine.max_failures=1"])
    monkeypatch.setattr(jobs.finetune, "TRAIN_LOOP", f"{__name__}:train_and_be_killed_once")
    metrics = finetune(recipe, shop.prepared)
    begun = Path(recipe.output or "", ".work", "epochs").read_text().splitlines()
    assert len(begun) == EPOCHS + 1
    assert begun[1] == begun[2]  # the second epoch, begun twice
    assert begun[0] not in begun[1:]
    whole = one["never killed"]["best"]
    assert metrics.keys() == whole.keys()
    for name in metrics.keys() - {"tokens_per_second"}:
        assert metrics[name] == pytest.approx(whole[name], rel=1e-5), name
    made, reference = (encoder.load(folder) for folder in (teacher_folder(recipe), shop.teacher("never killed")))
    torch.testing.assert_close(made.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_killed_worker_without_restarts_is_an_error_of_one_line(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    recipe = shop.recipe("lost", [])
    monkeypatch.setattr(jobs.finetune, "TRAIN_LOOP", f"{__name__}:train_and_be_killed_once")
    with pytest.raises(JobError, match=r"^training failed: .+$") as failed:
        finetune(recipe, shop.prepared)
    assert "\n" not in str(failed.value)
    assert not teacher_folder(recipe).exists()
