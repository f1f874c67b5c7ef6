from __future__ import annotations

import http.server
import json
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.session import JobError
from configs.folder import FolderError
from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.compress import BUNDLE
from jobs.data import snapshot as snapshots
from jobs.data.snapshot import Snapshot, remove_left, take_snapshot
from jobs.data.source import Sample, Split, rows, sample
from jobs.job import Way
from jobs.measure.fresh import run_fresh
from jobs.measure.measurement import Measurement, limit, measure_candidate
from jobs.measure.retention import Teacher
from jobs.trials import check_rows
from tests.processes import ROOT
from tests.tiny.bundles import LABELS, write_tiny_bundle

TEXTS = ["where is my order", "refund please", "cancel it now", "my \u2028 order"]
CODE = """
import os, signal, sys
from pathlib import Path
from configs.schema.data import DataSpec
from jobs.data.snapshot import take_snapshot
with take_snapshot(DataSpec(validation=sys.argv[1]), "validation", Path(sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(file: Path, count: int = 12, **more: Any) -> str:
    found = [{"text": TEXTS[number % 4], "label": LABELS[number % 3], **more} for number in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(file)


def left(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.is_file() and "rows-" in path.name]


@pytest.fixture
def asked() -> Counter[str]:
    """How often each file was asked for."""
    return Counter()


@pytest.fixture
def server(tmp_path: Path, asked: Counter[str]) -> Iterator[str]:
    class Counting(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            """Nothing on stderr."""

    handler = partial(Counting, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_file_holds_the_rows_as_their_source_gives_them(tmp_path: Path, split: Split):
    source = write(tmp_path / "rows.jsonl", other={"size": "L", "colour": "red"}, day=3)
    for fields in ({}, {"text_pair": "other"}, {"text_pair": "other", "slices": ["day"]}):
        data = DataSpec.model_validate({split: source, **fields})
        with take_snapshot(data, split, tmp_path / "out") as snapshot:
            found = list(rows(data, split))
            assert snapshot.rows() == found
            assert snapshot.sample == sample(found)
            assert Snapshot.model_validate_json(snapshot.model_dump_json()) == snapshot
    assert found[0].slots == (("size", "L"), ("colour", "red"))


def test_hashes_of_the_rows_are_those_of_one_reading(tmp_path: Path):
    data = DataSpec(test=write(tmp_path / "rows.jsonl"))
    kept: dict[Split, Any] = {}
    read: dict[Split, Any] = {}
    with take_snapshot(data, "test", tmp_path, kept):
        list(rows(data, "test", read))
    assert kept == read


def test_others_may_not_read_the_file_from_its_first_byte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    modes: list[int] = []
    dumps = json.dumps

    def seen(value: Any, *rest: Any, **fields: Any) -> str:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in left(tmp_path))
        return dumps(value, *rest, **fields)

    data = DataSpec(validation=write(tmp_path / "rows.jsonl"))
    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(snapshots.json, "dumps", seen)
            with take_snapshot(data, "validation", tmp_path / "out") as snapshot:
                assert stat.S_IMODE(Path(snapshot.file).stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert len(modes) >= 12 and set(modes) == {0o600}


def test_the_file_is_gone_after_the_job_and_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, output = DataSpec(validation=write(tmp_path / "source.jsonl")), tmp_path / "out"
    with take_snapshot(data, "validation", output) as snapshot:
        assert left(output) == [Path(snapshot.file)]
    assert not left(output)
    with pytest.raises(JobError), take_snapshot(data, "validation", output):
        raise JobError("in between")
    assert not left(output)

    def full(*_: Any) -> None:
        assert left(output)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"), take_snapshot(data, "validation", output):
        pass
    assert not left(output)


def test_what_a_killed_job_left_is_removed_by_the_next_one(tmp_path: Path):
    source, output = write(tmp_path / "source.jsonl"), tmp_path / "out"
    (output / ".work").mkdir(parents=True)
    kept = output / ".work" / "job.lock"
    kept.touch()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", CODE, source, str(output)], cwd=ROOT, check=False)
        assert len(left(output)) == 1
    with take_snapshot(DataSpec(test=source), "test", output) as own:
        assert left(output) == [Path(own.file)]
        remove_left(output)
        with take_snapshot(DataSpec(validation=source), "validation", output):
            assert len(left(output)) == 2
        assert left(output) == [Path(own.file)]
    assert kept.exists()


def test_rows_that_cannot_be_read_leave_nothing(tmp_path: Path):
    (tmp_path / "source.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "a"}\n')
    with (
        pytest.raises(UsageError, match="line 2"),
        take_snapshot(DataSpec(test=str(tmp_path / "source.jsonl")), "test", tmp_path / "out"),
    ):
        pass
    assert not left(tmp_path)


def test_a_measurement_reads_the_rows_of_a_url_once(
    tmp_path: Path, server: str, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    """A search takes the rows once; a trial looks at its rows, is measured in a fresh process, and fetches nothing."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the locks: someone else may be measuring on this machine
    write(tmp_path / "rows.jsonl", 48)
    write_tiny_bundle(tmp_path / "bundle", max_length=64)
    data, output = {"validation": f"{server}/rows.jsonl", "test": f"{server}/none.jsonl"}, tmp_path / "out"
    recipe = Recipe.model_validate({"name": "x", "output": str(output), "data": data})
    found = list(rows(recipe.data, "validation"))
    once = Counter(asked)
    asked.clear()
    with take_snapshot(recipe.data, "validation", output) as snapshot:
        teacher = Teacher(0.5, [0.5] * 1000, sample(found))
        check_rows(recipe, teacher, snapshot)
        with monkeypatch.context() as patch:
            patch.setitem(TASKS, "classify", replace(TASKS["classify"], calls=20))
            measured, _ = measure_candidate(recipe, tmp_path / "bundle", teacher, snapshot)
        assert stat.S_IMODE(Path(snapshot.file).stat().st_mode) == 0o600
        assert asked == once and once["/rows.jsonl"] > 0
    assert measured["validation_rows"] == 48 and not left(output)


def test_a_compression_that_cannot_be_measured_leaves_no_rows(
    tmp_path: Path, server: str, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "rows.jsonl")
    data = {"validation": f"{server}/rows.jsonl"}
    recipe = Recipe.model_validate({"name": "x", "output": str(tmp_path / "out"), "data": data})
    list(rows(recipe.data, "validation"))
    once = Counter(asked)
    asked.clear()
    monkeypatch.setattr("jobs.compress.compress", lambda *_, **__: None)
    run: Any = SimpleNamespace(id="1")
    way = Way(recipe, run, "compress")
    with way.held, pytest.raises(FolderError):
        BUNDLE.make(way, tmp_path / "bundle", "key")
    assert asked == once and not left(tmp_path / "out")


def test_a_trial_reads_a_local_source_again_where_it_was_written_since(tmp_path: Path):
    validation, test = tmp_path / "validation.jsonl", tmp_path / "test.jsonl"
    for on_leak, held in (("warn", ()), ("drop", (test,))):
        data = {"validation": write(validation), "test": write(test, 1), "on_leak": on_leak}
        recipe = Recipe.model_validate({"name": "x", "data": data})
        with take_snapshot(recipe.data, "validation", tmp_path / "out") as snapshot:
            teacher = Teacher(0.5, [], snapshot.sample)
            check_rows(recipe, teacher, snapshot)
            write(validation)
            os.utime(validation, ns=(1, 1))
            assert not snapshot.looks_current(recipe.data)
            check_rows(recipe, teacher, snapshot)  # which holds what it held
            write(validation, 14)
            with pytest.raises(JobError, match=r"changed since its rows were prepared \(\d+ rows then, \d+ now\)"):
                check_rows(recipe, teacher, snapshot)
        write(validation)
        with take_snapshot(recipe.data, "validation", tmp_path / "out") as snapshot:
            write(test, 2)
            assert snapshot.looks_current(recipe.data) == (test not in held)


def test_rows_that_its_teacher_did_not_answer_are_read_again_by_a_trial(tmp_path: Path):
    recipe = Recipe.model_validate({"name": "x", "data": {"validation": write(tmp_path / "validation.jsonl")}})
    with take_snapshot(recipe.data, "validation", tmp_path / "out") as snapshot:
        teacher = Teacher(0.5, [], snapshot.sample._replace(fingerprint="0"))
        with pytest.raises(JobError, match="12 rows as then, with other texts or labels"):
            check_rows(recipe, teacher, snapshot)
        other = Sample(1, "0")
        asked = Measurement(data=recipe.data, split="validation", snapshot=snapshot, contenders=[], sample=other)
        with pytest.raises(JobError, match=r"failed: data\.validation: .*\(1 rows then, 12 now\)"):
            run_fresh("jobs.measure.measurement", asked.model_dump_json(), 1, "nothing")
        assert limit(asked.model_copy(update={"score": ["a"]})) == 3600 + 12
