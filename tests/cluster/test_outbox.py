"""Faults between a job and MLflow; what counts is what MLflow has afterwards."""

from __future__ import annotations

import json
import os
import queue
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import outbox, spool
from cluster.client import client
from cluster.delivery import Delivery
from cluster.outbox import Outbox, replay
from cluster.record import Cluster
from tests.faults.marks import fault
from tests.faults.proxy import Fault, Proxy, in_front_of
from tests.processes import ROOT

GENEROUS_SECONDS = 60
STEP_SECONDS = 0.05
LOG_AND_DIE = """
import os, signal, sys
from pathlib import Path
from cluster import spool
from cluster.outbox import Outbox
run, output, spooled = sys.argv[1:]
if spooled == "no":
    spool.Spool.append = lambda self, entry: None
box = Outbox(run, Path(output))
for step in (1, 2, 3):
    box.log({"loss": 1 / step}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def proxy(on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands where MLflow is looked for, in front of it."""
    with in_front_of(on_mlflow.mlflow_url) as standing:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", standing.url)
        yield standing


@pytest.fixture
def run(on_mlflow: Cluster) -> str:
    """A run of MLflow that has just begun."""
    return client().create_run("0").info.run_id


def rows(run: str, metric: str = "loss") -> list[tuple[int, float]]:
    """(step, value) of everything that MLflow has of a metric, by step."""
    return sorted((each.step, each.value) for each in client().get_metric_history(run, metric))


def left_behind(output: Path, run: str, *steps: int) -> Path:
    """The file of a writer that is gone."""
    file = spool.Spool(output, run)
    for step in steps:
        file.append({"metrics": [["loss", float(step), 1, step]]})
    file.close(keep=True)
    return file.path


def told(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@fault("MLflow away, slow or failing")
@pytest.mark.parametrize(("fault", "tries_again"), [("500", True), ("drop", True), ("lose", True), ("drop", False)])
def test_metrics_that_the_server_did_not_take_at_once_are_there_once(
    proxy: Proxy, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, tries_again: bool
):
    if not tries_again:
        monkeypatch.setattr(outbox, "may_pass", lambda error: False)
    proxy.break_first(2, "log-batch", fault)
    box = Outbox(run, tmp_path)
    for step in (1, 2, 3):
        box.log({"loss": 1 / step, "note": "no number"}, step)  # type: ignore[dict-item]
    assert box.close(GENEROUS_SECONDS)
    assert (rows(run) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]) == tries_again
    assert spool.waiting(tmp_path) == []


def test_metrics_that_come_fast_go_together_and_what_is_no_metric_sends_them(
    proxy: Proxy, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "METRICS_SECONDS", 10 * GENEROUS_SECONDS)
    box = Outbox(run, tmp_path)
    box.log({"loss": 1.0}, 0)
    proxy.wait_for(1, "log-batch")
    for step in range(1, 21):
        box.log({"loss": 1.0}, step)
    box.put({"tags": {"done": "yes"}})
    proxy.wait_for(3, "log-batch")  # the metrics, then the tag
    assert box.close(GENEROUS_SECONDS)
    assert proxy.count("log-batch") == 3
    assert rows(run) == [(step, 1.0) for step in range(21)]


AWAY: list[tuple[float, Fault]] = [(0, "drop"), (20, "drop"), (60, "drop"), (20, "500"), (20, "hang")]  # seconds


@fault("MLflow away for 0, 20 or 60 s in training", slow=True)
@pytest.mark.parametrize(("seconds", "fault", "tries_again"), [*((*each, True) for each in AWAY), (20, "drop", False)])
def test_every_step_of_a_training_under_which_the_server_goes_away_is_there_once(
    proxy: Proxy,
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    fault: Fault,
    tries_again: bool,
):
    if not tries_again:
        monkeypatch.setattr(outbox, "may_pass", lambda error: False)
    box, back = Outbox(run, tmp_path), threading.Event()

    def come_back() -> None:
        proxy.fault = lambda request: None
        proxy.release.set()
        back.set()

    before, step, after = 20, 0, 20
    while after:
        step += 1
        box.log({"loss": 1 / step}, step)
        if step == before:
            proxy.fault = lambda request: fault
            threading.Timer(seconds, come_back).start()
        after -= back.is_set()
        back.wait(STEP_SECONDS)
    assert box.close(GENEROUS_SECONDS)
    assert (rows(run) == [(each, 1 / each) for each in range(1, step + 1)]) == tries_again
    assert spool.waiting(tmp_path) == []


@fault("driver killed")
@pytest.mark.parametrize("asks", [True, False])
def test_a_step_that_is_done_again_after_a_kill_keeps_its_first_value(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bool
):
    if not asks:
        monkeypatch.setattr("mlflow.MlflowClient.get_metric_history", lambda *_: [])
    for life, steps in enumerate([(1, 2, 3), (2, 3, 4)]):
        box = Outbox(run, tmp_path)
        for step in steps:
            box.log({"loss": step + life / 2}, step)
        assert box.close(GENEROUS_SECONDS)
    monkeypatch.undo()
    twice = [] if asks else [(2, 2.5), (3, 3.5)]
    assert rows(run) == sorted([(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5), *twice])


@fault("MLflow away, slow or failing")
def test_while_the_server_hangs_nobody_waits_and_everything_is_on_disk(proxy: Proxy, run: str, tmp_path: Path):
    proxy.fault = lambda request: "hang"
    box = Outbox(run, tmp_path)
    for step in range(100):  # ends while the proxy holds the first request
        box.log({"loss": float(step)}, step)
    path = spool.waiting(tmp_path)[0]
    assert told(path)[0] == {"run": run}
    assert [entry["metrics"][0][3] for entry in told(path)[1:]] == list(range(100))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert replay(tmp_path) == []
    assert path.exists(), "its writer lives"
    assert not box.close(seconds=0.1)
    proxy.fault = lambda request: None
    assert replay(tmp_path) == []
    assert rows(run) == [(step, float(step)) for step in range(100)]
    assert spool.waiting(tmp_path) == []


@fault("driver killed")
@pytest.mark.parametrize("spooled", ["yes", "no"])
def test_what_was_logged_before_a_kill_is_sent_by_the_next_and_once(run: str, tmp_path: Path, spooled: str):
    command = [sys.executable, "-c", LOG_AND_DIE, run, str(tmp_path), spooled]
    nowhere = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    assert subprocess.run(command, cwd=ROOT, env=nowhere, check=False).returncode == -9
    if spooled == "yes":  # a next that dies in between has sent a part
        found = told(spool.waiting(tmp_path)[0])
        Delivery(run).put(found[1])
    assert replay(tmp_path) == []
    assert rows(run) == ([(1, 1.0), (2, 1 / 2), (3, 1 / 3)] if spooled == "yes" else [])
    assert spool.waiting(tmp_path) == []


@fault("MLflow away, slow or failing")
def test_a_locked_database_delays_metrics_and_doubles_none(
    proxy: Proxy, run: str, on_mlflow: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with sqlite3.connect(on_mlflow.state / "mlflow" / "mlflow.db", timeout=GENEROUS_SECONDS) as database:
        database.execute("BEGIN IMMEDIATE")  # others may read
        box = Outbox(run, tmp_path)
        box.log({"loss": 1.0}, 1)
        proxy.wait_for(2, "log-batch")  # the first may still be waiting for the lock in the server
        database.rollback()
    assert box.close(GENEROUS_SECONDS)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    assert rows(run) == [(1, 1.0)]


@fault("disk full")
def test_a_full_disk_stops_nobody_and_leaves_whole_lines(
    proxy: Proxy, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    proxy.fault = lambda request: "500"
    box = Outbox(run, tmp_path)
    box.log({"loss": 1.0}, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
    box.log({"loss": 2.0}, 2)
    box.log({"loss": 3.0}, 3)
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    assert [entry["metrics"][0][3] for entry in told(spool.waiting(tmp_path)[0])[1:]] == [1]
    assert caplog.text.count("No space left on device; what MLflow is told is kept in memory only") == 1
    proxy.fault = lambda request: None
    assert box.close(GENEROUS_SECONDS)
    assert [step for step, _ in rows(run)] == [1, 2, 3]


def test_a_line_cut_short_by_a_power_failure_is_left_out(run: str, tmp_path: Path):
    kept = left_behind(tmp_path, run, 1, 2)
    with kept.open("r+b") as file:
        file.truncate(kept.stat().st_size - 5)
    assert replay(tmp_path) == []
    assert rows(run) == [(1, 1.0)]


def test_a_file_of_nobody_knows_which_run_is_set_aside_and_holds_up_nothing(run: str, tmp_path: Path):
    damaged = left_behind(tmp_path, run, 1)
    damaged.write_text("{" + damaged.read_text())
    left_behind(tmp_path, run, 2)
    assert replay(tmp_path) == []
    assert rows(run) == [(2, 2.0)]
    assert damaged.with_suffix(spool.REFUSED).exists()


def test_what_mlflow_refuses_is_set_aside_and_holds_up_nothing(run: str, tmp_path: Path):
    box = Outbox(run, tmp_path)
    box.put({"params": {"no such: \n name": "1"}})
    box.log({"loss": 1.0}, 1)
    assert box.close(GENEROUS_SECONDS)
    assert rows(run) == [(1, 1.0)]
    assert spool.waiting(tmp_path) == []
    assert [path.suffix for path in (tmp_path / spool.FOLDER).iterdir()] == [spool.REFUSED]


def test_who_waits_for_mlflow_is_told_what_is_left_and_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: queue.Queue[str]
):
    back = threading.Event()

    def away(self: Delivery, entry: Mapping[str, Any]) -> None:
        if not back.is_set():
            raise ConnectionError("http://me:secret@there does not answer")

    monkeypatch.setattr(Delivery, "put", away)
    monkeypatch.setattr(outbox, "may_pass", lambda error: True)
    monkeypatch.setattr(outbox, "METRICS_SECONDS", 0.0)
    box = Outbox("abc", tmp_path)
    box.log({"loss": 1.0})
    closing = threading.Thread(target=box.close, args=(GENEROUS_SECONDS,), daemon=True)
    closing.start()
    line = waits.get(timeout=GENEROUS_SECONDS)
    assert line.startswith("waiting for MLflow to take 1 entries of run abc: ")
    assert "secret" not in line
    back.set()
    closing.join()
    assert spool.waiting(tmp_path) == []
