"""A run that is interrupted, or whose worker is killed, goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cluster import engine, launch
from cluster.session import JobError
from configs.schema.recipe import Recipe
from jobs.layout import teacher_folder
from jobs.models import encoder
from jobs.training import fit, loop
from jobs.training.fit import finetune
from tests.faults.marks import fault
from tests.jobs.training.loops import EPOCHS, Facts, Shop, head
from tests.jobs.training.modes import CALM, INTERRUPTED_AT, OFTEN, PAIR


def train_and_be_killed_once(config: dict[str, Any]) -> dict[str, float]:
    """Runs on the worker, whose process ends when its second epoch begins."""
    return train_until(config, lambda: os.kill(os.getpid(), signal.SIGKILL))


def train_and_give_up_once(config: dict[str, Any]) -> dict[str, float]:
    """Runs on the worker; the whole run ends when its second epoch begins."""

    def give_up() -> None:
        raise JobError("gave up")

    return train_until(config, give_up)


def train_until(config: dict[str, Any], end: Callable[[], None]) -> dict[str, float]:
    """`end` when the second epoch begins for the first time; `epochs` notes those that were begun."""
    notes = Path(config["work"]).parent / "epochs"
    run_epoch = loop.run_epoch

    def note(training: loop.Training, epoch: int) -> float:
        begun = notes.read_text().count("\n") if notes.exists() else 0
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a") as file:
            file.write(f"{[len(batch) for batch in training.epochs[epoch]]}\n")
        if begun == 1:
            end()
        return run_epoch(training, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_epoch", note)
        return loop.train_loop(config)


def train_and_be_killed(config: dict[str, Any]) -> dict[str, float]:
    """Runs on two workers, of which one dies at a step, once; `steps` notes those that the first one began."""
    place, rank = Path(config["work"]).parent, torch.distributed.get_rank()
    told, killed, train = json.loads((place / "kill").read_bytes()), place / "killed", engine.Engine.step
    left = told["step"]

    def step(self: engine.Engine, *arguments: Any) -> float:
        nonlocal left
        if rank == 0:
            with (place / "steps").open("a") as steps:
                steps.write(f"{left}\n")
        if rank == told["rank"] and not left and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return train(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "step", step)
        return loop.train_loop(config)


def test_after_a_crash_the_bundle_holds_the_epoch_whose_metrics_it_states(shop: Shop, one: dict[str, Facts]):
    """The second epoch was the best and was kept, but no checkpoint knew of it; run again, it was not."""
    seen = one["encoder, crash before a checkpoint"]
    assert len(seen["heads"]) == EPOCHS + 1
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (1, 0.5)
    assert [head(encoder.load(shop.teacher("encoder, crash before a checkpoint")))] == seen["heads"][0]


INTERRUPTED = {
    "encoder, interrupted": "encoder",
    "encoder, interrupted, drops out": "encoder, never killed",
    "pruned student, rising, interrupted": "pruned student, rising",
    "decoder adapted, interrupted": "decoder adapted",
    "decoder student writes, interrupted": "decoder student writes",
}


@fault("worker killed")
@pytest.mark.parametrize("mode", INTERRUPTED)
def test_a_run_interrupted_inside_an_epoch_goes_on_there_to_the_same_model(one: dict[str, Facts], mode: str):
    seen, whole = one[mode], one[INTERRUPTED[mode]]
    assert seen["steps"] == [count + (epoch == 1) for epoch, count in enumerate(whole["steps"])]
    assert seen["curve"] == pytest.approx(whole["curve"], rel=1e-6)
    for heads, expected in zip(seen["heads"], whole["heads"], strict=True):
        assert heads[0] == pytest.approx(expected[0], rel=1e-6)


@fault("worker killed")
def test_without_checkpoints_inside_an_epoch_its_steps_are_done_again(one: dict[str, Facts]):
    first, second, third = one["encoder"]["steps"]
    assert one["encoder, interrupted, checkpoints by epoch"]["steps"] == [first, second + INTERRUPTED_AT, third]


@fault("worker killed")
def test_without_its_random_numbers_a_run_goes_on_to_another_model(one: dict[str, Facts]):
    seen, whole = (one[f"encoder, {name}"]["heads"] for name in ("interrupted, drops out otherwise", "never killed"))
    assert seen[0] == whole[0] and seen[1][0] != pytest.approx(whole[1][0], rel=1e-3)


def test_a_finished_run_leaves_no_work_behind(shop: Shop, one: dict[str, Facts]):
    assert not list(shop.folder.glob("*/.work/teacher-*"))


@fault("worker killed")
def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_model(
    shop: Shop, one: dict[str, Facts], monkeypatch: pytest.MonkeyPatch
):
    recipe = shop.recipe("killed", ["engine.max_failures=1"])
    monkeypatch.setattr(fit, "TRAIN_LOOP", f"{__name__}:train_and_be_killed_once")
    metrics = finetune(recipe, shop.prepared)
    assert_the_second_epoch_was_begun_twice(recipe)
    whole = one["encoder, never killed"]["best"]
    assert metrics.keys() == whole.keys()
    for name in metrics.keys() - {"tokens_per_second", "worker_peak_mb"}:
        assert metrics[name] == pytest.approx(whole[name], rel=1e-5), name
    made, reference = (
        encoder.load(folder) for folder in (teacher_folder(recipe), shop.teacher("encoder, never killed"))
    )
    torch.testing.assert_close(made.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-5)


def assert_the_second_epoch_was_begun_twice(recipe: Recipe) -> None:
    begun = Path(recipe.output or "", ".work", "epochs").read_text().splitlines()
    assert len(begun) == EPOCHS + 1
    assert begun[1] == begun[2]
    assert begun[0] not in begun[1:]


@fault("checkpoint damaged", slow=True)
@pytest.mark.parametrize("named_anew", [True, False])
def test_garbage_in_rays_own_snapshot_is_not_read(shop: Shop, monkeypatch: pytest.MonkeyPatch, named_anew: bool):
    """Every attempt is a run of Ray with a new name; control: under the name of the one before it cannot begin."""
    recipe = shop.recipe(f"snapshot, {named_anew}", ["engine.max_failures=1"])
    monkeypatch.setattr(fit, "TRAIN_LOOP", f"{__name__}:train_and_give_up_once")
    if not named_anew:
        monkeypatch.setattr(launch, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="a" * 32)))
    with pytest.raises(JobError, match=r"^gave up$"):
        finetune(recipe, shop.prepared)
    (run,) = Path(recipe.output or "", ".work", "ray").glob("train-*")
    (run / "checkpoint_manager_snapshot.json").write_bytes(b"\0garbage")
    if named_anew:
        finetune(recipe, shop.prepared)
        assert_the_second_epoch_was_begun_twice(recipe)
    else:
        with pytest.raises(JobError, match=r"^training failed: ActorDiedError: .*CheckpointManagerInitializationError"):
            finetune(recipe, shop.prepared)


@pytest.fixture(scope="module")
def unkilled(shop: Shop) -> tuple[dict[str, float], int]:
    """What two workers learn that nobody kills, and the steps that they take."""
    return trained_by_two(shop, "two, unkilled", 0, -1)


def trained_by_two(shop: Shop, name: str, rank: int, step: int, *given: str) -> tuple[dict[str, float], int]:
    recipe = shop.recipe(name, [*CALM, *PAIR, "engine.max_failures=1", *given])
    place = Path(recipe.output or "", ".work")
    place.mkdir(parents=True)
    (place / "kill").write_text(json.dumps({"rank": rank, "step": step}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "TRAIN_LOOP", f"{__name__}:train_and_be_killed")
        metrics = finetune(recipe, shop.prepared)
    assert (place / "killed").exists() == (step >= 0)
    return metrics, len((place / "steps").read_text().splitlines())


@fault("one of two workers killed at a random step", runs=10, slow=True)
def test_a_worker_killed_at_any_step_costs_no_more_than_what_lies_between_checkpoints(
    shop: Shop, unkilled: tuple[dict[str, float], int], seed: int
):
    """Checkpoints after every epoch, or after every step: the one that was begun is done again, by the first worker."""
    whole, steps = unkilled
    step = int(np.random.default_rng(seed).integers(0, steps))
    often = seed // 2 % 2
    metrics, taken = trained_by_two(shop, f"two, killed {seed}", seed % 2, step, *(OFTEN if often else []))
    assert 0 <= taken - steps <= (1 if often else steps // EPOCHS + 1)
    assert metrics["validation_accuracy"] == pytest.approx(whole["validation_accuracy"], abs=0.005)
