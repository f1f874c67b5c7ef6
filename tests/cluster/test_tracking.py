from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run

from cluster import tracking
from cluster.record import Cluster
from cluster.session import JobError
from cluster.tracking import MetricLog, code_version

RECIPE: dict[str, Any] = {"name": "tiny", "engine": {"workers": 2, "precision": "fp32"}, "steps": [{"step": "prune"}]}
GENEROUS_SECONDS = 20


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client gives up after one try of a second."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server whose port is bound but not listened on, so that a connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tracking server that takes connections and never answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{held.getsockname()[1]}")
        yield


def record(**given: Any) -> Any:
    return tracking.run("finetune", experiment="tests of tracking", recipe=RECIPE, **given)


def read(run_id: str) -> Run:
    return tracking.client().get_run(run_id)


def test_a_run_holds_the_recipe_its_leaves_and_where_it_came_from(on_cluster: Cluster, tmp_path: Path):
    with record() as run:
        run.tag(slimcart__data="abc")
    seen = read(run.id)
    assert seen.info.status == "FINISHED"
    assert seen.data.params == {
        "name": "tiny",
        "engine.workers": "2",
        "engine.precision": "fp32",
        "steps": '[{"step": "prune"}]',
    }
    tags = seen.data.tags
    assert tags["slimcart.job"] == "finetune"
    assert tags["mlflow.runName"] == "finetune tiny"
    assert tags["slimcart.data"] == "abc"
    assert (tags["slimcart.code_from"], tags["slimcart.code"]) == code_version()
    assert "mlflow.parentRunId" not in tags
    assert "slimcart.submission_id" not in tags
    file = tracking.client().download_artifacts(run.id, "recipe.yaml", str(tmp_path))
    assert yaml.safe_load(Path(file).read_text()) == RECIPE


def test_a_run_names_its_parent_and_its_submission(on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    with record(name="whole") as parent, record(parent=parent.id, name="part") as run:
        pass
    tags = read(run.id).data.tags
    assert (tags["mlflow.parentRunId"], tags["mlflow.runName"]) == (parent.id, "part")
    assert tags["slimcart.submission_id"] == "raysubmit_1"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_says_how_it_ended_and_its_error_goes_on(on_cluster: Cluster, error: type[BaseException], status: str):
    opened: list[str] = []

    def job() -> None:
        with record() as run:
            opened.append(run.id)
            raise error

    with pytest.raises(error):
        job()
    assert read(opened[0]).info.status == status


def test_metrics_are_there_with_their_steps_when_the_run_has_ended(on_cluster: Cluster):
    with record() as run:
        for step in (1, 2, 3):
            run.metrics.log({"loss": 1 / step, "note": "no number"}, step=step)  # type: ignore[dict-item]
    history = tracking.client().get_metric_history(run.id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert set(read(run.id).data.metrics) == {"loss"}


def test_the_error_of_a_job_outlives_a_tracking_server_that_went_away(
    on_cluster: Cluster, hurried: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):

    def job() -> None:
        with record(), socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{held.getsockname()[1]}")
            raise ValueError("the rows are broken")

    with pytest.raises(ValueError, match="the rows are broken"):
        job()
    assert "MLflow did not take the end of run" in caplog.text


def test_a_server_that_never_answers_holds_nobody_up_and_what_it_lost_is_counted(
    mute: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(tracking, "QUEUE_BATCHES", 3)
    started = time.monotonic()
    metrics = MetricLog("some-run")
    for step in range(10):
        metrics.log({"loss": 1.0, "accuracy": 0.5}, step=step)
    assert metrics.dropped >= 2 * (10 - 3 - 1)  # three wait, one is being sent
    with caplog.at_level(logging.WARNING):
        metrics.close(seconds=0.5)
    assert time.monotonic() - started < GENEROUS_SECONDS
    assert "20 metrics of run some-run did not reach MLflow" in caplog.text


def test_a_refused_connection_never_reaches_the_caller(nobody: str, hurried: None, caplog: pytest.LogCaptureFixture):
    metrics = MetricLog("some-run")
    metrics.log({"loss": 1.0})
    metrics.close(seconds=GENEROUS_SECONDS)
    assert metrics.dropped == 1
    assert "1 metrics of run some-run did not reach MLflow" in caplog.text


def test_a_missing_address_never_reaches_the_caller(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    metrics = MetricLog("some-run")
    metrics.log({"loss": 1.0})
    metrics.close(seconds=GENEROUS_SECONDS)
    assert "MLFLOW_TRACKING_URI is not set" in caplog.text


def test_a_server_that_is_not_there_is_one_line_after_seconds(nobody: str, monkeypatch: pytest.MonkeyPatch):
    for name in tracking.HTTP_DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    started = time.monotonic()
    with pytest.raises(JobError) as failed, record():
        pytest.fail("the job must not begin")
    assert time.monotonic() - started < 2 * GENEROUS_SECONDS
    assert str(failed.value).startswith(f"MLflow at {nobody} does not take runs: ")
    assert "\n" not in str(failed.value)


def test_the_code_version_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SLIMCART_COMMIT", "abc-dirty")
    assert code_version(tmp_path) == ("SLIMCART_COMMIT", "abc-dirty")


def test_the_code_version_is_the_commit_and_says_when_files_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("SLIMCART_COMMIT", raising=False)
    code = _code(tmp_path)
    git(tmp_path, "init", "--quiet")
    assert code_version(tmp_path)[0] == "digest"  # nothing committed yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    source, commit = code_version(tmp_path)
    assert (source, len(commit)) == ("git", 40)
    code.write_text("x = 2\n")
    assert code_version(tmp_path) == ("git", f"{commit}-dirty")


def test_without_git_the_code_version_changes_with_the_code_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("SLIMCART_COMMIT", raising=False)
    code = _code(tmp_path)
    source, first = code_version(tmp_path)
    assert source == "digest"
    (tmp_path / "jobs" / "notes.txt").write_text("no code")
    assert code_version(tmp_path) == ("digest", first)
    code.write_text("x = 2\n")
    changed = code_version(tmp_path)[1]
    shutil.move(code, code.with_name("other.py"))
    assert len({first, changed, code_version(tmp_path)[1]}) == 3


def _code(folder: Path) -> Path:
    (folder / "jobs").mkdir()
    code = folder / "jobs" / "verb.py"
    code.write_text("x = 1\n")
    return code


def git(folder: Path, *words: str) -> None:
    someone = ["-c", "user.name=someone", "-c", "user.email=someone@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *someone, *words], cwd=folder, check=True)
