from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.tasks import BUDGET_SHAPE
from jobs.compression import after_each_step as module
from jobs.compression.after_each_step import after_each_step, exported_prefixes
from serving.bundle import bundle_digest, read_bundle
from tests.tiny.bundles import write_tiny_bundle

STEPS = [
    {"step": "prune", "sparsity": 0.1, "name": "some"},
    {"step": "prune", "sparsity": 0.3},
    {"step": "export"},
    {"step": "quantize"},
]


def recipe(given: list[dict[str, Any]], **sections: Any) -> Recipe:
    return Recipe.model_validate({"name": "x", "compression": given, **sections})


def kinds(given: list[dict[str, Any]]) -> list[list[str]]:
    return [[each.name or each.step for each in prefix] for prefix in exported_prefixes(recipe(given).compression)]


def test_every_prefix_ends_in_a_file_and_the_whole_is_the_winner_itself():
    assert kinds(STEPS) == [["export"], ["some", "export"], ["some", "prune", "export"]]
    assert kinds(STEPS[2:]) == [["export"]]
    assert kinds(STEPS[2:3]) == []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Recipe]]:
    """(folder's name, recipe) of every compression."""
    found: list[tuple[str, Recipe]] = []
    monkeypatch.setattr(module, "compress", lambda recipe, student, folder, _: found.append((folder.name, recipe)))
    monkeypatch.setattr(module.session, "connect", lambda: None)
    return found


def test_the_winners_own_steps_are_made_with_its_values(tmp_path: Path, made: list[tuple[str, Recipe]]):
    write_tiny_bundle(tmp_path / "student")
    origin = {"student": bundle_digest(tmp_path / "student"), "steps": STEPS}
    origin["values"] = {"distillation.temperature": 3.5, "compression.prune.sparsity": 0.3}
    winner = write_tiny_bundle(tmp_path / "bundle", provenance=origin)
    found = after_each_step(recipe([{"step": "export"}]), winner, tmp_path / "student", tmp_path / "between")
    assert [each.name for each in found] == ["step_export", "step_some", "step_prune"]
    assert {each.folder for each in found} == {str(tmp_path / "between" / name) for name, _ in made}
    assert all(each.shapes == [BUDGET_SHAPE] for each in found)
    assert [len(chosen.compression) for _, chosen in made] == [1, 2, 3]
    assert {chosen.distillation.temperature for _, chosen in made} == {3.5}
    assert {chosen.export.parity for _, chosen in made} == {0}


def test_a_step_that_cannot_be_made_again_is_left_out_with_a_word(
    tmp_path: Path, made: list[tuple[str, Recipe]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(recipe: Recipe, student: Path, folder: Path, _: Any) -> None:
        if folder.name == "step_some":
            raise JobError("no teacher outputs")

    monkeypatch.setattr(module, "compress", refuse)
    write_tiny_bundle(tmp_path / "student")
    origin = {"student": bundle_digest(tmp_path / "student"), "steps": STEPS}
    winner = write_tiny_bundle(tmp_path / "bundle", provenance=origin)
    found = after_each_step(recipe(STEPS), winner, tmp_path / "student", tmp_path / "between")
    assert [each.name for each in found] == ["step_export", "step_prune"]
    assert "step_some is left out: no teacher outputs" in caplog.text


def test_steps_of_another_student_are_not_measured(tmp_path: Path, made: list[tuple[str, Recipe]]):
    write_tiny_bundle(tmp_path / "student")
    for number, origin in enumerate(({}, {"student": "0" * 64, "steps": STEPS})):
        write_tiny_bundle(tmp_path / str(number), provenance=origin)
        winner = read_bundle(tmp_path / str(number))
        assert after_each_step(recipe(STEPS), winner, tmp_path / "student", tmp_path) == []
    assert made == []
