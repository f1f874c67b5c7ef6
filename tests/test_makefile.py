from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

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
