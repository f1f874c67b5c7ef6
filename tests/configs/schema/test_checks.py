from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.loader import UsageError, load
from configs.schema.recipe import Recipe


def read(tmp_path: Path, *overrides: str, task: str = "generate") -> Recipe:
    file = tmp_path / "recipe.yaml"
    student = "{}" if task == "classify" else "{layers: 1}"
    file.write_text(
        f"name: x\ntask: {task}\nstudent: {student}\ndata: {{train: a.csv, validation: b.csv, test: null}}\n"
    )
    return load(Recipe, file, list(overrides))


def test_nothing_is_checked_unless_a_recipe_asks(tmp_path: Path):
    assert not read(tmp_path).checks.enabled
    assert read(tmp_path, "checks.enabled=true", "checks.blocked=[cheap]").checks.blocked == ["cheap"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["checks.blocked=[cheap]"], "blocked: enabled=false: nothing is checked; set enabled=true"),
        (["checks={enabled: true, min_words: 9, max_words: 3}"], "min_words=9: above max_words=3"),
        (["checks={enabled: true, brands: [' ']}"], "brands: '': an empty word stands in every text"),
    ],
)
def test_checks_that_would_do_nothing_are_refused(tmp_path: Path, overrides: list[str], said: str):
    with pytest.raises(UsageError, match=said.replace("[", r"\[")):
        read(tmp_path, *overrides)


def test_a_task_that_writes_nothing_takes_none(tmp_path: Path):
    with pytest.raises(UsageError, match=r"checks\.enabled: True: task 'classify' does not use it"):
        read(tmp_path, "checks.enabled=true", task="classify")


def test_a_number_of_candidates_is_limited(tmp_path: Path):
    wrong: Any = "checks={enabled: true, candidates: 0}"
    with pytest.raises(UsageError, match=r"checks\.candidates"):
        read(tmp_path, wrong)
