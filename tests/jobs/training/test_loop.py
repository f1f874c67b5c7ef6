"""The train loop on real workers: several runs share a worker group, and one is killed and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import checkpoint, engine, launch, session
from cluster.record import Cluster
from cluster.session import JobError
from cluster.spec import EngineSpec
from configs.loader import load
from jobs.data.prepared import Prepared
from jobs.finetune import finetune, teacher_folder
from jobs.models import encoder
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
    "bf16 weights": ["teacher.dropout=0", "engine.precision=bf16"],
    "activations computed twice": [*CALM, "engine.activation_checkpointing=true"],
    "offloaded": [*CALM, "engine.zero_stage=3", "engine.offload=all"],
}
PAIR = [*CALM, "engine.workers=2"]
TWO_WORKERS = {
    **{f"zero {stage}": [*PAIR, f"engine.zero_stage={stage}"] for stage in range(4)},
    "zero 3 accumulated": [*PAIR, "engine.zero_stage=3", "engine.accumulation=2"],
    "pipeline": [*PAIR, "engine.pipeline_stages=2", "engine.zero_stage=0"],
    "pipeline accumulated": [*PAIR, "engine.pipeline_stages=2", "engine.accumulation=4"],
    "pipeline, activations computed twice": [
        *PAIR,
        "engine.pipeline_stages=2",
        "engine.activation_checkpointing=true",
    ],
    "tensor": [*PAIR, "engine.tensor_parallel=2"],
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

    def recipe(self, name: str, overrides: list[str]) -> Recipe:
        given = [
            f"output={name.replace(' ', '-')}",
            f"teacher.epochs={EPOCHS}",
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
            configs = {name: finetune(self.recipe(name, given), self.prepared) for name, given in runs.items()}
        spec = EngineSpec(workers=workers, cpus_per_worker=1, max_failures=0)
        return launch.fit(observe, configs, spec, self.folder / "ray")

    def teacher(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-") / "teacher"


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


def test_training_learns(one: dict[str, Facts]):
    first, *_, last = one["plain"]["curve"]
    assert last < 0.9 * first
    assert one["plain"]["best"]["validation_accuracy"] > 0.25  # of five classes, equally many rows


@pytest.mark.parametrize("mode", ["accumulated", "activations computed twice", "offloaded"])
def test_how_a_step_is_computed_changes_nothing(one: dict[str, Facts], mode: str):
    assert one[mode]["curve"] == pytest.approx(one["plain"]["curve"], rel=1e-4)


@pytest.mark.parametrize("mode", TWO_WORKERS)
def test_two_workers_learn_what_one_does(one: dict[str, Facts], two: dict[str, Facts], mode: str):
    assert two[mode]["curve"] == pytest.approx(one["plain"]["curve"], rel=1e-4)
    assert two[mode]["best"]["validation_accuracy"] == pytest.approx(one["plain"]["best"]["validation_accuracy"])


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
    monkeypatch.setattr(loop, "train_loop", train_and_be_killed_once)
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
    monkeypatch.setattr(loop, "train_loop", train_and_be_killed_once)
    with pytest.raises(JobError, match=r"^training failed: .+$") as failed:
        finetune(recipe, shop.prepared)
    assert "\n" not in str(failed.value)
    assert not teacher_folder(recipe).exists()
