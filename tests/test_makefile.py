from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.processes import FOREIGN, ROOT, Done, run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile alone, to be cleaned."""
    (tmp_path / "project").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / "project")
    return tmp_path / "project"


def clean(project: Path, *arguments: str, state: Path | None = None) -> Done:
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return run(["make", "clean", *arguments], own | ({"SLIMCART_STATE": str(state)} if state else {}), project)


def test_help_lists_every_target_and_each_is_one_that_makes_no_file():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    told = [line.split() for line in run(["make", "help"], os.environ, ROOT).output.splitlines()]
    assert [" ".join(words[:2]) for words in told] == [f"make {name}" for name in phony.split()]
    assert all(len(words) > 3 for words in told)


def test_together_the_targets_run_every_test_and_the_quick_one_less_than_what_needs_no_cluster():
    """By the marks that each chooses by."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    marks = ("cluster", "parallel", "often", "slow")
    chosen = {}
    for name in ("test", "test-quick", "test-slow"):
        (recipe,) = re.findall(rf"^{name}: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        every = [Expression.compile(each) for each in re.findall(r'-m "([^"]+)"', recipe)]
        chosen[name] = {
            some
            for count in range(len(marks) + 1)
            for some in itertools.combinations(marks, count)
            for each in every
            if each.evaluate(lambda mark, some=some, **_: mark in some)
        }
    assert chosen["test"] | chosen["test-slow"] == {
        some for count in range(len(marks) + 1) for some in itertools.combinations(marks, count)
    }
    assert not chosen["test"] & chosen["test-slow"]
    assert chosen["test-quick"] == {()}


def write_state(folder: Path, *more: str) -> Path:
    """What `down` leaves of a state, and more."""
    for name in ("logs/ray.log", "ray/auth_token", "mlflow/mlflow.db", "home/bundle/bundle.json", "lock", *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_clean_takes_the_state_only_when_asked(project: Path):
    state = write_state(project / ".slimcart")
    assert clean(project).code == 0 and state.exists()
    assert clean(project, "state=yes").code == 0 and not state.exists()
    assert clean(project, "state=yes").code == 0


def test_clean_takes_the_state_that_the_other_targets_use(project: Path, tmp_path: Path):
    default, other = write_state(project / ".slimcart"), write_state(tmp_path / "other")
    assert clean(project, "state=yes", state=other).code == 0
    assert default.exists() and not other.exists()


@pytest.mark.parametrize(
    ("more", "said"), [("cluster.json", "make down first"), ("thesis.tex", "is not, or not only, of slimcart")]
)
def test_clean_leaves_a_state_in_use_and_one_with_other_things_whole(
    project: Path, tmp_path: Path, more: str, said: str
):
    state = write_state(tmp_path / "other", more)
    before = sorted(state.rglob("*"))
    done = clean(project, "state=yes", state=state)
    assert done.code != 0 and said in done.output and str(state) in done.output
    assert sorted(state.rglob("*")) == before


def test_clean_leaves_a_folder_that_no_cluster_was_started_in(project: Path, tmp_path: Path):
    (tmp_path / "home").mkdir()
    done = clean(project, "state=yes", state=tmp_path)
    assert done.code != 0 and (tmp_path / "home").exists()
