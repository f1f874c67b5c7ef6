from __future__ import annotations

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig

from cluster import session
from cluster.session import JobError
from configs.folder import commit
from configs.loader import UsageError
from configs.schema.distillation import StoredOutputs
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from jobs import teach as module
from jobs.data.prepared import MANIFEST, Prepared
from jobs.preflight import check_possible
from jobs.tasks.classify import teaching
from jobs.teach import _check_room
from jobs.training.wanted import outputs_key, outputs_of, taught_by, wanted_of
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.ways import teach

ROWS = Prepared(Path(__file__).parent, {"key": "rows", "rows": {"train": 2, "validation": 1}})


@pytest.fixture(autouse=True)
def six_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the teacher, and nothing else is asked of it."""
    config = BertConfig(num_hidden_layers=6, hidden_size=12)
    for user in (teaching, module):
        monkeypatch.setattr(user, "teacher_config", lambda recipe: config)
    monkeypatch.setattr(module, "_check_teachers", lambda recipe, prepared: None)
    monkeypatch.setattr(session, "check_capacity", lambda engine: None)


def recipe(output: Path, space: dict[str, Any] | None = None, **distillation: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "tiny", "output": str(output), "distillation": distillation, "search": {"space": space or {}}}
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, StoredOutputs()),
        ({"hidden_layers": [2, -1], "weights": {"hidden": 1}}, StoredOutputs(hidden_layers=[2, 6])),
        ({"hidden_layers": [2], "weights": {"cosine": 1}}, StoredOutputs(hidden_layers=[6])),
        ({"hidden_layers": [2], "weights": {"cosine": 1, "hidden": 1}}, StoredOutputs(hidden_layers=[2, 6])),
        ({"relation_layer": -2, "weights": {"relations": 1}}, StoredOutputs(relation_layer=5)),
        ({"epochs": 2, "stages": [{"epochs": 1, "weights": {"relations": 1}}]}, StoredOutputs(relation_layer=6)),
        ({"space": {"distillation.weights.hidden": {"uniform": [0, 1]}}}, StoredOutputs(hidden_layers=[6])),
        ({"space": {"distillation.weights.kl": {"uniform": [0, 1]}}}, StoredOutputs()),
    ],
    ids=str,
)
def test_what_objectives_compare_is_stored_and_nothing_else(
    tmp_path: Path, given: dict[str, Any], wanted: StoredOutputs
):
    assert wanted_of(recipe(tmp_path, **given)) == wanted


STUDENTS: dict[str, tuple[dict[str, Any], str]] = {
    "too many layers": ({"student": {"layers": 12}}, r"student\.layers: 12 layers asked, the teacher has 6"),
    "a layer twice": ({"student": {"layers": [0, 0]}}, r"student\.layers: \[0, 0\]: give different indices"),
    "too wide": ({"student": {"hidden": 24}}, r"student\.hidden: 24: the teacher has 12 to choose from"),
    "width not shared": ({"student": {"hidden": 10}}, r"student\.hidden: 10: 12 heads cannot share it"),
    "larger heads": ({"student": {"heads": 6}}, r"student\.heads: 6: heads of 12 / 6 = 2 dimensions"),
    "new, not shared": ({"student": {"kind": "new", "hidden": 10}}, r"student\.hidden: 10: 12 heads cannot share it"),
    "wider convolutions": ({"student": {"kind": "conv", "hidden": 13}}, r"student\.hidden: 13: .* embeddings have 12"),
    "no such vectors": (
        {"distillation": {"hidden_layers": [0], "weights": {"hidden": 1}}},
        r"hidden_layers: 0: the teach",
    ),
    "parts of relations": (
        {"distillation": {"relation_heads": 7, "weights": {"relations": 1}}},
        r"relation_heads: 7: does not divide",
    ),
    "searched layers": (
        {"search": {"space": {"student.layers": {"choice": [1, [0, 6]]}}}},
        r"student\.layers: \[0, 6\]: give different indices from 0 to 5",
    ),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_what_a_teacher_cannot_give_is_refused_before_it_is_trained(tmp_path: Path, name: str):
    BertConfig(num_hidden_layers=6, hidden_size=12, num_attention_heads=12).save_pretrained(tmp_path)
    given, said = STUDENTS[name]
    asked = SearchRecipe.model_validate({"name": "tiny", "teacher": {"model": str(tmp_path)}, **given})
    with pytest.raises(UsageError, match=said):
        check_possible(asked)
    bundle = {"teacher": {"bundle": str(tmp_path)}}
    with pytest.raises(UsageError, match=said):
        check_possible(SearchRecipe.model_validate({"name": "tiny", **bundle, **given}))


def test_a_decoder_that_is_new_has_as_many_layers_as_its_recipe_says():
    told = {"name": "tiny", "task": "generate", "teacher": {"model": "new:gpt2", "new": {"layers": 2}}}
    check_possible(SearchRecipe.model_validate(told | {"student": {"layers": 2}}))
    with pytest.raises(UsageError, match=r"student\.layers: 4 layers asked, the teacher has 2"):
        check_possible(Recipe.model_validate(told | {"student": {"layers": [0, 1]}}).at({"student.layers": 4}))


def test_what_is_searched_together_or_only_stands_as_a_default_is_not_refused(tmp_path: Path):
    BertConfig(num_hidden_layers=2, hidden_size=12, num_attention_heads=12).save_pretrained(tmp_path)
    teacher = {"name": "tiny", "teacher": {"model": str(tmp_path)}}
    layers = {"student.layers": {"choice": [1, [0, 1]]}}
    sizes = {"student.hidden": {"choice": [10]}, "student.heads": {"choice": [5]}}
    check_possible(Recipe.model_validate(teacher))
    check_possible(Recipe.model_validate(teacher | {"search": {"space": layers}}))
    check_possible(SearchRecipe.model_validate(teacher | {"search": {"space": layers}}))
    check_possible(SearchRecipe.model_validate(teacher | {"search": {"space": layers | sizes}}))


def test_parts_of_relations_that_do_not_divide_both_widths_are_refused_before_any_worker_starts(tmp_path: Path):
    asked = recipe(tmp_path, relation_heads=5, weights={"relations": 1})
    with pytest.raises(UsageError, match=r"relation_heads: 5: does not divide the widths of .*, 12 and 12"):
        wanted_of(asked)


def test_a_student_depends_on_every_teacher_and_its_weight(tmp_path: Path):
    for number, name in enumerate(("teacher", "second")):
        write_tiny_bundle(tmp_path / name, seed=number)
    alone, both, otherwise = (
        taught_by(recipe(tmp_path, further_teachers=further))
        for further in (
            [],
            [{"bundle": str(tmp_path / "second")}],
            [{"bundle": str(tmp_path / "second"), "weight": 0.5}],
        )
    )
    assert both[0] == alone[0]
    assert len({repr(each) for each in (alone, both, otherwise)}) == 3


def test_vectors_are_not_computed_where_the_disk_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(Prepared, "examples", lambda self, split: SimpleNamespace(lengths=np.array([7, 3])))
    wanted, asked = StoredOutputs(hidden_layers=[6], relation_layer=6), recipe(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=959))
    words = r"10 tokens x 4 vectors x 12 x 2 bytes = 0 MB"
    with pytest.raises(JobError, match=words):
        _check_room(wanted, asked, ROWS)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=960))
    with caplog.at_level("INFO"):
        _check_room(wanted, asked, ROWS)
    assert words in caplog.text


@pytest.mark.parametrize("locked", [True, False])
def test_two_jobs_at_once_ask_the_teacher_once(tmp_path: Path, locked: bool, monkeypatch: pytest.MonkeyPatch):
    """The first one writes until the second one writes too, which without the lock it does, until the first has ended:
    so neither replaces what the other reads."""
    write_tiny_bundle(tmp_path / "teacher")
    asked, numbers = list[Path](), itertools.count(1)
    two_at_work, one_has_ended = threading.Event(), threading.Event()

    def write(folder: Path, teachers: Any, prepared: Prepared, key: str, *rest: Any, **more: Any) -> None:
        asked.append(folder)
        if next(numbers) == 1:
            two_at_work.wait(0.5 if locked else 30)
        else:
            two_at_work.set()
            assert one_has_ended.wait(30)
        commit(folder, MANIFEST, lambda aside: {"key": key})

    monkeypatch.setattr("jobs.training.teaching.write_outputs", write)
    if not locked:
        monkeypatch.setattr("jobs.stage.only_maker", lambda folder: contextlib.nullcontext())

    def ask(_: int) -> Path | None:
        try:
            return teach(recipe(tmp_path), ROWS)
        finally:
            one_has_ended.set()

    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(ask, range(2)))
    assert folders == [tmp_path / "teacher_outputs"] * 2
    assert len(asked) == (1 if locked else 2)


def leave_outputs(folder: Path, wanted: StoredOutputs, pool: bool = False) -> None:
    """What `prepare` and `teach` leave, as far as their manifests go."""
    write_tiny_bundle(folder / "teacher")
    for rows, outputs in [("prepared", "teacher_outputs"), *([("pool", "pool_outputs")] if pool else [])]:
        commit(folder / rows, MANIFEST, lambda aside, rows=rows: {"key": rows})
        key = outputs_key(recipe(folder), Prepared(folder / rows, {"key": rows}), wanted)
        manifest = {"key": key, "wanted": wanted.model_dump()}
        commit(folder / outputs, MANIFEST, lambda aside, manifest=manifest: manifest)


@pytest.mark.parametrize(("completions", "same"), [(False, False), (True, True)])
def test_answers_of_another_precision_are_others_and_completions_are_not(tmp_path: Path, completions: bool, same: bool):
    write_tiny_bundle(tmp_path / "teacher")
    asked = recipe(tmp_path)
    exact = asked.model_copy(update={"engine": asked.engine.model_copy(update={"precision": "fp32"})})
    keys = {outputs_key(each, ROWS, StoredOutputs(completions=completions)) for each in (asked, exact)}
    assert len(keys) == (1 if same else 2)


def test_outputs_that_teach_left_are_found_also_where_they_hold_more(tmp_path: Path):
    leave_outputs(tmp_path, StoredOutputs(hidden_layers=[3, 6]))
    assert outputs_of(recipe(tmp_path)) == tmp_path / "teacher_outputs"
    assert outputs_of(recipe(tmp_path, weights={"cosine": 1})) == tmp_path / "teacher_outputs"


@pytest.mark.parametrize(
    ("damage", "asked"),
    [
        (lambda folder: (folder / "teacher_outputs" / MANIFEST).unlink(), {}),
        (lambda folder: commit(folder / "prepared", MANIFEST, lambda aside: {"key": "other rows"}), {}),
        (lambda folder: write_tiny_bundle(folder / "teacher", seed=1), {}),
        (lambda folder: None, {"weights": {"relations": 1}}),
        (lambda folder: (folder / "pool_outputs" / MANIFEST).unlink(), {"pool": {"rows": 2}}),
    ],
    ids=["none", "of other rows", "of another teacher", "without what is compared", "none of the pool"],
)
def test_outputs_that_do_not_fit_are_refused_with_the_command_that_makes_them(
    tmp_path: Path, damage: Any, asked: dict[str, Any]
):
    leave_outputs(tmp_path, StoredOutputs(), pool=True)
    assert outputs_of(recipe(tmp_path, pool={"rows": 2})) == tmp_path / "teacher_outputs"
    damage(tmp_path)
    with pytest.raises(JobError, match=r"python -m jobs\.teach makes them"):
        outputs_of(recipe(tmp_path, **asked))
