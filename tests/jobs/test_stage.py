"""Stages on their own: a folder of one number, made of what a key says, without a cluster."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import resume, tracking
from cluster.session import JobError
from configs.folder import FolderError, commit, verify
from configs.schema.recipe import Recipe
from jobs import stage as module
from jobs.job import Way, job
from jobs.stage import Stage, made

MANIFEST = "manifest.json"


class Numbers:
    """A stage that writes the recipe's seed, remembers what it did, and can be told to die."""

    def __init__(self, name: str = "number", needs: tuple[Stage[Any], ...] = ()) -> None:
        self.did: list[str] = []
        self.keys = 0
        self.dies = False
        self.record: Stage[int] = Stage(name, self.folder, self.key, self.open, self.make, needs, self.tell)

    def folder(self, recipe: Recipe) -> Path:
        assert recipe.output is not None
        return Path(recipe.output, self.record.name)

    def key(self, way: Way) -> str:
        self.keys += 1
        return f"seed {way.recipe.seed}"

    def open(self, way: Way, folder: Path, key: str) -> int | None:
        try:
            manifest = verify(folder, MANIFEST)
        except FolderError:
            return None
        return int((folder / "number").read_text()) if manifest["key"] == key else None

    def make(self, way: Way, folder: Path, key: str) -> None:
        self.did.append("made")

        def fill(aside: Path) -> dict[str, Any]:
            (aside / "number").write_text(str(way.recipe.seed))
            return {"key": key}

        commit(folder, MANIFEST, fill)
        if self.dies:
            raise SystemExit(137)

    def tell(self, way: Way, value: int) -> None:
        self.did.append(f"told {value}")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the MLflow runs that were begun."""
    begun: list[str] = []

    @contextlib.contextmanager
    def run(verb: str, **_: Any) -> Iterator[Any]:
        begun.append(verb)
        yield SimpleNamespace(id=verb)

    monkeypatch.setattr(tracking, "run", run)
    monkeypatch.setattr(resume, "broken_off", lambda *_: False)
    return begun


def recipe(folder: Path, **fields: Any) -> Recipe:
    return Recipe.model_validate({"name": "x", "output": str(folder)} | fields)


def way(asked: Recipe, verb: str = "number", tracked: bool = False) -> contextlib.AbstractContextManager[Way]:
    return job(verb, asked, cluster=False, tracked=tracked)


def test_a_stage_twice_is_made_once_and_told_by_each_job_that_is_for_it(tmp_path: Path, runs: list[str]):
    numbers = Numbers()
    for _ in range(2):
        with way(recipe(tmp_path, seed=3)) as mine:
            assert made(mine, numbers.record) == made(mine, numbers.record) == 3
    assert numbers.did == ["made", "told 3", "told 3"] and runs == ["number", "number"]


def test_a_stage_is_made_again_where_its_key_changed_its_folder_is_damaged_or_it_is_asked_for(
    tmp_path: Path, runs: list[str]
):
    numbers = Numbers()
    for asked in (recipe(tmp_path), recipe(tmp_path, seed=1), recipe(tmp_path, seed=1, again=True)):
        with way(asked) as mine:
            made(mine, numbers.record)
    assert numbers.did.count("made") == 3
    (tmp_path / "number" / "number").write_text("cut")
    with way(recipe(tmp_path, seed=1)) as mine:
        assert made(mine, numbers.record) == 1
    assert numbers.did.count("made") == 4


def test_a_key_is_asked_once_a_job_also_where_the_folder_is_made_again(tmp_path: Path, runs: list[str]):
    numbers = Numbers()
    for seed in (0, 1):
        with way(recipe(tmp_path, seed=seed)) as mine:
            made(mine, numbers.record)
    assert numbers.did.count("made") == numbers.keys == 2


def test_what_a_stage_needs_is_made_before_it_and_not_told_in_a_job_for_another(tmp_path: Path, runs: list[str]):
    ground = Numbers("ground")
    above = Numbers("number", (ground.record,))
    with way(recipe(tmp_path)) as mine:
        made(mine, above.record)
    assert ground.did == ["made"] and above.did == ["made", "told 0"] and runs == ["number"]
    with way(recipe(tmp_path, again=True)) as mine:  # of what the verb makes, and not of what it needs
        made(mine, above.record)
    assert ground.did == ["made"] and above.did.count("made") == 2


def test_a_job_that_tracks_its_stages_has_a_run_for_each_that_it_makes(tmp_path: Path, runs: list[str]):
    ground = Numbers("ground")
    above = Numbers("number", (ground.record,))
    for _ in range(2):
        with way(recipe(tmp_path), "optimize", tracked=True) as mine:
            made(mine, above.record)
    assert runs == ["optimize", "ground", "number", "optimize"]
    assert ground.did == ["made", "told 0"] == above.did


@pytest.mark.parametrize("protected", [True, False])
def test_two_at_once_make_a_stage_once(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, protected: bool
):
    """Each waits, inside `make`, for the other for a while; without the lock the other comes."""
    numbers, both = Numbers(), threading.Barrier(2)
    make = numbers.record.make

    def slowly(*given: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1 if protected else 30)
        make(*given)

    record = Stage("number", numbers.folder, numbers.key, numbers.open, slowly, (), numbers.tell)
    if not protected:
        monkeypatch.setattr(module, "only_maker", lambda _: contextlib.nullcontext())

    def once() -> int:
        with way(recipe(tmp_path, seed=7)) as mine:
            return made(mine, record)

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(once) for _ in range(2)]
    if protected:
        assert [each.result() for each in ends] == [7, 7]
    assert numbers.did.count("made") == (1 if protected else 2)  # without it one may also meet the other's half folder


def test_a_stage_that_was_killed_before_it_was_told_is_told_once_by_the_next_job(
    tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
):
    numbers = Numbers()
    numbers.dies = True
    with pytest.raises(SystemExit), way(recipe(tmp_path), "optimize", tracked=True) as mine:
        made(mine, numbers.record)
    numbers.dies = False
    assert numbers.did == ["made"]
    broken = [True]
    monkeypatch.setattr(resume, "broken_off", lambda *_: broken.pop() if broken else False)
    for _ in range(2):
        with way(recipe(tmp_path), "optimize", tracked=True) as mine:
            made(mine, numbers.record)
    assert numbers.did == ["made", "told 0"]
    assert runs == ["optimize", "number", "optimize", "number", "optimize"]


def test_a_stage_that_leaves_something_else_than_its_key_says_is_an_error(tmp_path: Path, runs: list[str]):
    numbers = Numbers()

    def other(mine: Way, folder: Path, key: str) -> None:
        commit(folder, MANIFEST, lambda _: json.loads('{"key": "another"}'))

    record = Stage("number", numbers.folder, numbers.key, numbers.open, other)
    with way(recipe(tmp_path)) as mine, pytest.raises(JobError, match=r"number: number made it, and it is not what"):
        made(mine, record)
