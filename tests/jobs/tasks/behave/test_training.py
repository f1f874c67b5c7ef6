from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from configs.folder import commit
from configs.loader import UsageError
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import TeacherSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.data.prepared import MANIFEST, ROWS, Prepared
from jobs.models import items
from jobs.models.items import ItemSizes, NextItems
from jobs.tasks.behave import training
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import numbered, table
from jobs.tasks.behave.losses import ranked_list
from jobs.tasks.behave.metrics import metrics, ranked
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.scoring import scorer
from jobs.tasks.behave.splits import leave_last_out
from jobs.tasks.behave.training import INPUTS, Behave
from jobs.training import loop
from tests.group import in_group

ENGINE = EngineSpec(tokens_per_batch=64)
MAX_LENGTH, LISTED = 6, 5
SIZES = ItemSizes(items=12, hidden=16, layers=2, heads=2, max_length=MAX_LENGTH, dropout=0.0)


def circles(customers: int = 40, seed: int = 0) -> list[History]:
    """Customers who go round the catalogue step by step, each from another item on."""
    random = np.random.default_rng(seed)
    starts, lengths = random.integers(12, size=customers), random.integers(3, 14, size=customers)
    return [
        History(str(row), tuple(f"i{(start + step) % 12:02}" for step in range(length)))
        for row, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


PARTS = leave_last_out(circles())
CATALOGUE = Catalogue.of(PARTS.train)


def shard(split: str, table: pa.Table) -> pa.Table:
    return table.append_column("split", pa.array([split] * len(table))).append_column(
        "row", pa.array(range(len(table)))
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Histories as `prepare` stores them; of validation rows the last purchase alone is asked for."""
    train = table([numbered(each, CATALOGUE) for each in PARTS.train])
    asked = [each.known._replace(items=(*each.known.items, *each.wanted)) for each in PARTS.validation]
    validation = table([numbered(each, CATALOGUE, len(each.items) - 1) for each in asked])

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(
            pa.concat_tables([shard("train", train), shard("validation", validation)]), aside / ROWS / "0.parquet"
        )
        return {"key": "k", "items": len(CATALOGUE), "max_length": MAX_LENGTH}

    commit(tmp_path / "prepared", MANIFEST, fill)
    return Prepared.open(tmp_path / "prepared")


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "my_rows", np.arange)
    monkeypatch.setattr(training, "gather", lambda value: [value])


def whole(task: Behave, rows: np.ndarray) -> dict[str, torch.Tensor]:
    (batch,), _ = task.parts(rows, 0, 1, 1)
    return batch


def answered(model: NextItems, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**{name: batch[name] for name in INPUTS})


def learn(task: Behave, model: NextItems, spec: TeacherSpec | DistillationSpec, epochs: int) -> None:
    """What the loop does with a task, on one worker."""
    optimizer, loss = torch.optim.AdamW(model.parameters(), 0.01), task.loss(model, spec)
    for epoch in range(epochs):
        for rows in task.epoch(0, epoch, ENGINE):
            (batch,), size = task.parts(rows, 0, 1, 1)
            optimizer.zero_grad()
            (loss(answered(model, batch), batch).sum() / size).backward()
            optimizer.step()


def judged(task: Behave, model: NextItems) -> dict[str, float]:
    with torch.inference_mode():
        return task.evaluate(model.eval(), torch.device("cpu"))


def write_outputs(task: Behave, teacher: NextItems, folder: Path) -> None:
    """A teacher's ranked lists at the ends of each history, as they are stored."""
    stored = task._train
    with torch.no_grad():
        found = [ranked_list(answered(teacher, whole(task, np.array([row]))), LISTED) for row in range(len(stored))]
    ends = [len(each.ids_NK) for each in found]
    lists = [
        pa.array(torch.cat([each[part] for each in found]).tolist(), pa.list_(kind, LISTED))
        for part, kind in ((0, pa.int32()), (1, pa.float32()))
    ]
    offsets = pa.array(np.cumsum([0, *ends]), pa.int32())
    columns = [pa.ListArray.from_arrays(offsets, each) for each in lists]
    outputs = shard("train", pa.table({"ids": columns[0], "log_probs": columns[1]}))

    def fill(aside: Path) -> dict[str, Any]:
        (aside / ROWS).mkdir()
        pq.write_table(outputs, aside / ROWS / "0.parquet")
        return {"key": "k"}

    commit(folder, MANIFEST, fill)


def test_an_epoch_asks_every_purchase_once(prepared: Prepared):
    task = Behave(prepared, None)
    batches = task.epoch(0, 0, ENGINE)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(task.lengths)))
    sizes = [task.parts(rows, 0, 1, 1)[1] for rows in batches]
    assert sum(sizes) == sum(len(each.items) for each in PARTS.train)


@pytest.mark.parametrize(("workers", "parts"), [(2, 1), (1, 3), (2, 2)])
def test_every_layout_sees_the_same_loss_and_gradient(prepared: Prepared, workers: int, parts: int):
    torch.manual_seed(0)
    task, model = Behave(prepared, None), NextItems(SIZES)
    loss, rows = task.loss(model, TeacherSpec()), task.epoch(0, 0, ENGINE)[0]

    def gradient(workers: int, parts: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = torch.zeros(())
        for rank in range(workers):
            micro, size = task.parts(rows, rank, workers, parts)
            assert len({tuple(each["input_ids"].shape) for each in micro}) == 1
            for batch in micro:
                total = total + (loss(answered(model, batch), batch) * batch["weight"]).sum() / size
        total.backward()
        assert model.items.weight.grad is not None
        return total.item(), model.items.weight.grad.clone()

    alone, split = gradient(1, 1), gradient(workers, parts)
    assert split[0] == pytest.approx(alone[0], rel=1e-5)
    torch.testing.assert_close(split[1], alone[1])


def test_a_teacher_learns_and_is_judged_as_the_final_evaluation_judges_it(prepared: Prepared):
    torch.manual_seed(0)
    task, model = Behave(prepared, None), NextItems(SIZES)
    before = judged(task, model)
    learn(task, model.train(), TeacherSpec(), epochs=15)
    after = judged(task, model)
    assert after["ndcg_10"] > 0.9 > before["ndcg_10"]
    final = metrics(ranked(scorer(model, CATALOGUE), PARTS.validation, CATALOGUE), CATALOGUE)
    assert {name: after[name] for name in ("ndcg_10", "hr_5")} == pytest.approx(
        {name: final[name] for name in ("ndcg_10", "hr_5")}
    )


def test_a_student_learns_from_stored_lists_alone(prepared: Prepared, tmp_path: Path):
    torch.manual_seed(0)
    task, teacher = Behave(prepared, None), NextItems(SIZES)
    learn(task, teacher.train(), TeacherSpec(), epochs=15)
    write_outputs(task, teacher.eval(), tmp_path / "outputs")
    taught = Behave(prepared, tmp_path / "outputs")
    student = NextItems(SIZES._replace(layers=1, hidden=8))
    spec = DistillationSpec.model_validate({"weights": {"kl": 1.0, "cross_entropy": 0.0}, "temperature": 1.0})
    learn(taught, student.train(), spec, epochs=20)
    mine, theirs = (judged(task, each) for each in (student, teacher))
    assert mine["ndcg_10"] > 0.9 * theirs["ndcg_10"]


def test_stored_lists_are_those_of_the_same_ends(prepared: Prepared, tmp_path: Path):
    """A student that is the teacher has nothing to learn, in whatever batch."""
    torch.manual_seed(0)
    teacher = NextItems(SIZES).eval()
    write_outputs(Behave(prepared, None), teacher, tmp_path / "outputs")
    task = Behave(prepared, tmp_path / "outputs")
    spec = DistillationSpec.model_validate({"weights": {"kl": 1.0, "cross_entropy": 0.0}, "temperature": 1.0})
    loss = task.loss(teacher, spec)
    for rows in task.epoch(3, 1, ENGINE):
        for batch in task.parts(rows, 0, 1, 2)[0]:
            assert loss(answered(teacher, batch), batch).abs().max() < 1e-3
    other = NextItems(SIZES).eval()
    assert loss(answered(other, batch := whole(task, np.arange(4))), batch).min() > 1e-2


LENT = "generate"  # whose record lends its place: this task has none yet


def recipe_in(folder: Path, workers: int = 1) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "shop",
            "task": LENT,
            "output": str(folder),
            "teacher": {
                "model": "new:gpt2",
                "epochs": 3,
                "learning_rate": 0.002,
                "new": {"hidden": 16, "layers": 2, "heads": 2},
            },
            "engine": {"tokens_per_batch": 64, "max_failures": 0, "workers": workers},
        }
    )


def test_a_teacher_has_the_sizes_of_the_recipe(prepared: Prepared, tmp_path: Path):
    sizes = Behave(prepared, None).teacher(recipe_in(tmp_path)).sizes
    assert sizes == SIZES._replace(items=len(CATALOGUE), dropout=TeacherSpec().dropout)


def curve(config: dict[str, Any]) -> dict[str, Any]:
    """What the loop tells of each epoch, with the real engine and without chance, and the best epoch."""
    told: list[dict[str, float]] = []
    record = replace(TASKS[LENT], trainer="jobs.tasks.behave.training:Behave")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TASKS", {LENT: record})
        patch.setattr(Behave, "teacher", lambda *_: NextItems(SIZES))
        patch.setattr("ray.train.report", told.append)
        run = loop.build(loop.Fit.model_validate(config))
        loop.train(run)
    return {"told": told, "best": run.progress["best"]}


@pytest.mark.parallel
def test_the_loop_trains_a_teacher_alike_on_one_worker_and_on_two(prepared: Prepared, tmp_path: Path):
    found = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        config = {
            "recipe": recipe_in(folder, workers).model_dump(),
            "role": "teacher",
            "prepared": str(prepared.folder),
        }
        config |= {"target": str(folder / "teacher"), "work": str(folder / "work"), "key": "k"}
        found[workers] = in_group(curve, config, workers, folder)
    alone, together = ([each["train_loss"] for each in found[workers]["told"]] for workers in (1, 2))
    assert alone[-1] < 0.8 * alone[0]
    assert together == pytest.approx(alone, rel=1e-4)
    judged = {workers: [each["validation_ndcg_10"] for each in found[workers]["told"]] for workers in (1, 2)}
    assert found[1]["best"]["validation_ndcg_10"] == max(judged[1])
    assert judged[2] == pytest.approx(judged[1], abs=0.01)


def test_a_model_is_read_as_it_was_written(tmp_path: Path):
    model = NextItems(SIZES).eval()
    items.save(model, tmp_path)
    again = items.load(tmp_path)
    assert again.sizes == SIZES and not again.training
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_pipeline_is_refused(prepared: Prepared):
    with pytest.raises(UsageError, match=r"^engine.pipeline_stages: no pipeline for models of next items"):
        Behave(prepared, None).layers(NextItems(SIZES))
