"""One group of processes for each number of workers; what these saw comes back as plain values.

The same engine under Ray Train: tests/jobs/training/test_loop.py.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from cluster import checkpoint, launch, session
from cluster.engine import Batch, Engine, Tied, _check_precision, _multiplied, gather
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import FolderError
from configs.loader import UsageError
from configs.schema.engine import EngineSpec
from tests.group import in_group

ROWS = (7, 4, 1, 6, 8, 5)  # of the global batches; where there is one, the second worker gets a filler
CLIP = 0.05
PLAIN = {"precision": "fp32", "zero_stage": 0, "gradient_clipping": 0}
CLIPPED = PLAIN | {"gradient_clipping": CLIP}
MODES = {
    "plain": PLAIN,
    "clipped": CLIPPED,
    "accumulated": CLIPPED | {"accumulation": 2},
    "zero 1": CLIPPED | {"zero_stage": 1},
    "zero 1 accumulated": CLIPPED | {"zero_stage": 1, "accumulation": 2},
    "bf16": CLIPPED | {"precision": "bf16_autocast"},
}
Facts = dict[str, Any]


def observe(config: dict[str, Any]) -> Facts:
    """Runs on every worker."""
    facts: Facts = {name: train(fields) for name, fields in MODES.items()}
    facts["steps of SGD"] = {clip: moves(PLAIN | {"gradient_clipping": clip}) for clip in (0, CLIP)}
    facts["running means"] = running_means()
    facts["checkpoints"] = checkpoints(Path(config["folder"]), CLIPPED | {"zero_stage": config["zero_stage"]})
    return facts


def train(fields: dict[str, Any]) -> Facts:
    engine = adam(fields)
    losses = [step(engine, index) for index in range(len(ROWS))]
    return {
        "losses": losses,
        "weights": gather(flat(engine.module).tolist()),
        "dtypes": sorted({str(each.dtype) for each in engine.module.parameters()}),
    }


def moves(fields: dict[str, Any]) -> list[float]:
    """The norm of each step's gradient: how far it moves the weights at a learning rate of 1, which falls."""
    engine = build(fields, lambda weights: torch.optim.SGD(weights, lr=1.0))
    norms = []
    for index in range(len(ROWS)):
        before = flat(engine.module)
        step(engine, index)
        norms.append(float((flat(engine.module) - before).norm()) / rate(index))
    return norms


def running_means() -> list[list[list[float]]]:
    """What a batch norm holds on each worker: after a step, and after the whole model was asked for."""
    norm = nn.BatchNorm1d(16)
    engine = build(PLAIN, lambda weights: torch.optim.SGD(weights, lr=1.0), between=norm)
    step(engine, 0)
    own = gather(norm.running_mean.tolist())  # pyright: ignore[reportOptionalMemberAccess]
    engine.whole()
    return [own, gather(norm.running_mean.tolist())]  # pyright: ignore[reportOptionalMemberAccess]


def checkpoints(folder: Path, fields: dict[str, Any]) -> Facts:
    """Three checkpoints of two steps each, then what is restored as one after the other breaks."""
    engine, facts = adam(fields), {}
    facts["before any"] = checkpoint.restore(engine, folder)
    weights, losses = [], []
    for epoch in (1, 2, 3):
        losses.append([step(engine, index) for index in range(2 * epoch - 2, 2 * epoch)])
        weights.append(flat(engine.module).tolist())
        checkpoint.save(engine, folder, epoch, {"epoch": epoch})
    facts |= {"weights": weights, "losses": losses, "kept": sorted(path.name for path in folder.iterdir())}
    facts["mode"] = stat.S_IMODE(folder.stat().st_mode)
    facts["newest"] = restored(folder, fields)
    damage(folder / "epoch-0003")
    facts["newest damaged"] = restored(folder, fields)
    damage(folder / "epoch-0002")
    try:
        checkpoint.restore(adam(fields), folder)
    except FolderError as error:
        facts["all damaged"] = str(error)
    return facts


def restored(folder: Path, fields: dict[str, Any]) -> Facts:
    engine = adam(fields, seed=1)
    progress = checkpoint.restore(engine, folder)
    return {
        "progress": progress,
        "weights": gather(flat(engine.module).tolist()),
        "next losses": [step(engine, index) for index in (4, 5)],
    }


def damage(folder: Path) -> None:
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        largest = max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 0xFF
        largest.write_bytes(content)
    torch.distributed.barrier()


def adam(fields: dict[str, Any], seed: int = 0) -> Engine:
    """With so large an `eps`, a gradient that is too large or too small by a factor shows in the step."""
    return build(fields, lambda weights: torch.optim.AdamW(weights, lr=0.5, eps=1.0), seed)


def build(
    fields: dict[str, Any],
    optimizer: Callable[[Any], torch.optim.Optimizer],
    seed: int = 0,
    between: nn.Module | None = None,
) -> Engine:
    torch.manual_seed(seed)
    return Engine(
        nn.Sequential(nn.Linear(6, 16), between or nn.Tanh(), nn.Linear(16, 3)),
        ["input"],
        lambda logits_BC, batch: F.cross_entropy(logits_BC.float(), batch["label"], reduction="none"),
        lambda named: optimizer([weight for _, weight in named]),
        lambda made: torch.optim.lr_scheduler.LambdaLR(made, rate),
        EngineSpec.model_validate(fields),
    )


def rate(done: int) -> float:
    return 1 - done / (2 * len(ROWS))


def step(engine: Engine, index: int) -> float:
    """One step on this worker's share of a global batch; the mean loss over all workers."""
    rank, world, parts = engine.data_rank, engine.data_size, engine._parts
    shares = [share(index, rank * parts + part, world * parts) for part in range(parts)]
    return sum(gather(engine.step(shares, ROWS[index])))


def share(index: int, part: int, of: int) -> Batch:
    rows = torch.Generator().manual_seed(index)
    features = torch.randn(ROWS[index], 6, generator=rows)[part::of]
    label = torch.randint(3, (ROWS[index],), generator=rows)[part::of]
    if not len(label):
        return {"input": torch.ones(1, 6), "label": torch.zeros(1, dtype=torch.long), "weight": torch.zeros(1)}
    return {"input": features, "label": label, "weight": torch.ones(len(label))}


def flat(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()]).clone()


def lose_on_the_second_worker(config: dict[str, Any]) -> None:
    """The first worker waits in a collective for the second, which gives up."""
    rank = torch.distributed.get_rank()
    if rank == 0:
        with Path(config["starts"]).open("a") as notes:
            notes.write("start\n")
    part = share(0, rank, 2)
    adam(PLAIN).step([part | {"input": part["input"] * (math.nan if rank else 1)}], ROWS[0])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What a single worker sees."""
    return seen(1, tmp_path_factory.mktemp("one"), zero_stage=0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the first of two workers sees."""
    return seen(2, tmp_path_factory.mktemp("two"), zero_stage=1)


def seen(workers: int, folder: Path, zero_stage: int) -> Facts:
    return in_group(observe, {"folder": str(folder / "checkpoints"), "zero_stage": zero_stage}, workers, folder)


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest, one: Facts, two: Facts) -> Facts:
    return {1: one, 2: two}[request.param]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["clipped", "accumulated", "zero 1", "zero 1 accumulated"])
def test_losses_do_not_depend_on_how_many_workers_and_parts_share_a_batch(one: Facts, workers: Facts, mode: str):
    assert workers[mode]["losses"] == pytest.approx(one["clipped"]["losses"], rel=1e-4)
    assert workers[mode]["weights"][0] == pytest.approx(one["clipped"]["weights"][0], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_losses_without_clipping_are_those_of_one_worker_too(one: Facts, two: Facts):
    assert two["plain"]["losses"] == pytest.approx(one["plain"]["losses"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_workers_hold_the_same_weights(two: Facts, mode: str):
    first, second = two[mode]["weights"]
    assert first == second


@pytest.mark.slow
def test_the_whole_model_has_the_first_workers_running_statistics(two: Facts):
    own, whole = two["running means"]
    assert own[0] != own[1]
    assert whole == [own[0], own[0]]


@pytest.mark.slow
def test_bf16_autocast_computes_otherwise_and_keeps_float32_weights(workers: Facts):
    assert workers["bf16"]["dtypes"] == ["torch.float32"]
    assert workers["bf16"]["losses"] != workers["clipped"]["losses"]
    assert workers["bf16"]["losses"] == pytest.approx(workers["clipped"]["losses"], rel=0.05)


@pytest.mark.slow
def test_a_gradient_is_never_longer_than_the_clipping_norm(workers: Facts):
    free, clipped = (workers["steps of SGD"][clip] for clip in (0, CLIP))
    assert min(free) > 2 * CLIP
    assert clipped == pytest.approx([CLIP] * len(ROWS), rel=1e-3)
    assert workers["plain"]["losses"] != pytest.approx(workers["clipped"]["losses"], rel=1e-3)


def test_a_table_that_is_looked_up_is_no_work_for_a_stage():
    table, norm = nn.Embedding(100, 4), nn.LayerNorm(4)
    looked_up, scored = (
        Tied("tokens", table, lambda module, hidden: hidden, multiplies) for multiplies in (False, True)
    )
    assert [_multiplied(each) for each in (nn.Sequential(table, norm), looked_up, scored)] == [8, 0, 400]


@pytest.mark.slow
def test_gradients_are_equally_long_with_one_worker_and_two(one: Facts, two: Facts):
    assert two["steps of SGD"][0] == pytest.approx(one["steps of SGD"][0], rel=1e-3)


@pytest.mark.slow
def test_the_two_newest_checkpoints_are_kept_and_private(workers: Facts):
    seen = workers["checkpoints"]
    assert seen["before any"] is None
    assert seen["kept"] == ["epoch-0002", "epoch-0003"]
    assert seen["mode"] == 0o700


@pytest.mark.slow
def test_the_newest_checkpoint_brings_weights_and_progress_back(workers: Facts):
    seen = workers["checkpoints"]
    assert seen["newest"]["progress"] == {"epoch": 3}
    assert all(weights == seen["weights"][2] for weights in seen["newest"]["weights"])


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_training_goes_on_alike(workers: Facts):
    seen = workers["checkpoints"]
    assert seen["newest damaged"]["progress"] == {"epoch": 2}
    assert all(weights == seen["weights"][1] for weights in seen["newest damaged"]["weights"])
    assert seen["newest damaged"]["next losses"] == pytest.approx(seen["losses"][2], rel=1e-6)


@pytest.mark.slow
def test_checkpoints_that_are_all_damaged_are_an_error_not_a_fresh_start(workers: Facts):
    assert "no checkpoint below" in workers["checkpoints"]["all damaged"]
    assert "remove the folder to start over" in workers["checkpoints"]["all damaged"]


def test_a_loss_that_is_not_finite_ends_the_job_in_one_line_and_is_not_tried_again(on_cluster: Cluster, tmp_path: Path):
    session.connect()
    starts = tmp_path / "starts"
    spec = EngineSpec(workers=2, cpus_per_worker=1, max_failures=3)
    with pytest.raises(JobError) as failed:
        launch.fit(f"{__name__}:lose_on_the_second_worker", {"starts": str(starts)}, spec, tmp_path / "ray")
    assert str(failed.value) == "the loss became nan; lower the learning rate or look for broken rows"
    assert starts.read_text() == "start\n"


@pytest.mark.parametrize(("computes", "precision"), [(False, "bf16"), (True, "fp16")])
def test_a_precision_that_the_device_computes_is_taken(monkeypatch: pytest.MonkeyPatch, computes: bool, precision: str):
    device(monkeypatch, computes)
    _check_precision(EngineSpec.model_validate({"precision": precision}))


def test_fp16_on_a_device_without_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    device(monkeypatch, False)
    with pytest.raises(UsageError, match=r"^engine\.precision: 'fp16': this cpu device does not compute it; use bf16"):
        _check_precision(EngineSpec(precision="fp16"))


def device(monkeypatch: pytest.MonkeyPatch, computes_fp16: bool) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: computes_fp16)
