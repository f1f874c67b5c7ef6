from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run

from cluster import spool, tracking
from cluster.client import DEFAULTS, client
from cluster.delivery import LOCAL, find
from cluster.outbox import Outbox
from cluster.record import Cluster
from cluster.session import JobError
from cluster.version import code_version
from configs.loader import UsageError
from tests.answering import answering
from tests.faults.marks import fault
from tests.faults.proxy import Proxy, in_front_of
from tests.processes import ROOT

RECIPE: dict[str, Any] = {"name": "tiny", "engine": {"workers": 2, "precision": "fp32"}, "steps": [{"step": "prune"}]}
EXPERIMENT = "tests of tracking"
GENEROUS_SECONDS = 20
JOBS = """
import os, signal, sys, time
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow
from cluster import tracking
from jobs import command, prepare

def run(recipe):
    told = {"name": "tiny", "output": folder}
    with tracking.run("finetune", experiment="tests of tracking", recipe=told) as whole:
        with tracking.run("prepare", experiment="tests of tracking", recipe=told, parent=whole.id) as done:
            done.metrics.log({"rows": 3})
        with tracking.run("trial", experiment="tests of tracking", recipe=told, parent=whole.id) as below:
            for step in (1, 2):
                whole.metrics.log({"loss": 1.0}, step)
            below.metrics.log({"accuracy": 0.5})
            if ending == "unheard":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGKILL if ending == "killed" else signal.SIGTERM)
            time.sleep(60)

run.__module__ = "jobs.prepare"
for asked in sys.argv[1:]:
    folder, _, ending = asked.partition("=")
    if not (child := os.fork()):
        command.main(run, ["--config", "configs/smoke.yaml"])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def ended(on_mlflow: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Outputs of jobs, each with two runs below its own: three were killed, two stopped as Ray does it, one unheard."""
    folder = tmp_path_factory.mktemp("ended")
    endings = ("killed", "killed", "killed", "stopped", "unheard")
    outputs = [folder / str(number) for number in range(len(endings))]
    asked = [f"{output}={ending}" for output, ending in zip(outputs, endings, strict=True)]
    done = subprocess.run([sys.executable, "-c", JOBS, *asked], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["-9", "-9", "-9", "143", "-15"]
    return outputs


@pytest.fixture
def proxy(on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands where MLflow is looked for, in front of it; nobody waits long for what it holds up."""
    with in_front_of(on_mlflow.mlflow_url) as standing:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", standing.url)
        for name in ("FLUSH_SECONDS", "HANDOVER_SECONDS"):
            monkeypatch.setattr(tracking, name, 0.1)
        yield standing


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def recipe(output: Path) -> dict[str, Any]:
    return RECIPE | {"output": str(output)}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tracking server whose port is bound but not listened on, so that a connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address


def record(recipe: dict[str, Any], job: str = "finetune", **given: Any) -> Any:
    return tracking.run(job, experiment=EXPERIMENT, recipe=recipe, **given)


def read(run_id: str) -> Run:
    return client().get_run(run_id)


def steps(run_id: str, metric: str) -> list[int]:
    return sorted(each.step for each in client().get_metric_history(run_id, metric))


def runs_of(output: Path) -> list[Run]:
    """All runs with this output."""
    experiment = client().get_experiment_by_name(EXPERIMENT)
    assert experiment
    return list(client().search_runs([experiment.experiment_id], f"params.output = '{output}'"))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, "You are not authenticated. Please see the documentation."),
        (403, "Permission denied"),
        (401, '{"error_code": "UNAUTHENTICATED", "message": "no"}'),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}'),
        (401, '{"detail": "Not authenticated"}'),
        (403, '{"error": {"code": 403, "message": "Forbidden"}}'),
    ],
)
def test_an_mlflow_that_does_not_take_the_credentials_is_asked_once(
    recipe: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: str
):
    with answering(status, body) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("://", "://me:secret@"))
        with (
            pytest.raises(UsageError, match=r"^environment: MLFLOW_TRACKING_URI: .* set MLFLOW_T") as told,
            record(recipe),
        ):
            pass
    assert "secret" not in str(told.value)
    assert len(server.asked) == 1
    assert not list(output.glob("**/*.jsonl*"))


def test_an_mlflow_in_trouble_is_asked_again(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """The control: it may be there a moment later."""
    monkeypatch.setattr(tracking, "OPEN_TRIES", 2)
    with answering(503, "busy") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        with pytest.raises(JobError, match="does not take runs"), record(recipe):
            pass
    assert len(server.asked) == 2


def test_a_run_holds_the_recipe_its_leaves_and_where_it_came_from(
    on_mlflow: Cluster, recipe: dict[str, Any], tmp_path: Path
):
    with record(recipe) as run:
        run.tag(slimcart__data="abc")
    seen = read(run.id)
    assert seen.info.status == "FINISHED"
    assert seen.data.params == {
        "name": "tiny",
        "engine.workers": "2",
        "engine.precision": "fp32",
        "steps": '[{"step": "prune"}]',
        "output": recipe["output"],
    }
    tags = seen.data.tags
    assert tags["slimcart.job"] == "finetune"
    assert tags["mlflow.runName"] == "finetune tiny"
    assert tags["slimcart.data"] == "abc"
    assert (tags["slimcart.code_from"], tags["slimcart.code"]) == code_version()
    assert "mlflow.parentRunId" not in tags
    assert "slimcart.submission_id" not in tags
    file = client().download_artifacts(run.id, "recipe.yaml", str(tmp_path))
    assert yaml.safe_load(Path(file).read_text()) == recipe


def test_a_run_does_not_hold_what_opens_an_address(on_mlflow: Cluster, recipe: dict[str, Any], tmp_path: Path):
    signed = "https://user:secret@host/rows.csv?X-Amz-Signature=abc"
    with record(recipe | {"data": {"train": signed}, "urls": [signed]}) as run:
        pass
    params = read(run.id).data.params
    assert (params["data.train"], params["urls"]) == ("https://host/rows.csv?…", '["https://host/rows.csv?…"]')
    text = Path(client().download_artifacts(run.id, "recipe.yaml", str(tmp_path))).read_text()
    assert yaml.safe_load(text)["data"] == {"train": "https://host/rows.csv?…"}
    assert not any(word in text for word in ("secret", "abc"))


def test_a_run_names_its_parent_and_its_submission(
    on_mlflow: Cluster, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    with record(recipe, name="whole") as parent, record(recipe, parent=parent.id, name="part") as run:
        pass
    tags = read(run.id).data.tags
    assert (tags["mlflow.parentRunId"], tags["mlflow.runName"]) == (parent.id, "part")
    assert tags["slimcart.submission_id"] == "raysubmit_1"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_says_how_it_ended_and_its_error_goes_on(
    on_mlflow: Cluster, recipe: dict[str, Any], error: type[BaseException], status: str
):
    opened: list[str] = []

    def job() -> None:
        with record(recipe) as run:
            opened.append(run.id)
            raise error

    with pytest.raises(error):
        job()
    assert read(opened[0]).info.status == status
    with record(recipe) as run:  # a job that was stopped is gone on with, one that failed is not
        assert (run.id == opened[0]) == (status == "KILLED")
        assert read(run.id).info.status == "RUNNING"


@fault("head killed, up again")
@pytest.mark.parametrize("lost", [True, False])
def test_a_job_that_fails_as_its_cluster_goes_is_gone_on_with(
    on_mlflow: Cluster, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, lost: bool
):
    """Control: with the cluster still there, it failed by itself, and the next job has a run of its own."""
    monkeypatch.setattr(tracking.session, "is_lost", lambda _: lost)
    with pytest.raises(JobError), record(recipe) as run:
        raise JobError("training failed")
    assert read(run.id).info.status == ("KILLED" if lost else "FAILED")
    with record(recipe) as after:
        assert (after.id == run.id) == lost


def test_metrics_are_there_with_their_steps_when_the_run_has_ended(on_mlflow: Cluster, recipe: dict[str, Any]):
    with record(recipe) as run:
        for step in (1, 2, 3):
            run.metrics.log({"loss": 1 / step}, step=step)
    history = client().get_metric_history(run.id, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert set(read(run.id).data.metrics) == {"loss"}


@fault("MLflow away, slow or failing")
def test_a_server_that_goes_away_ends_no_job_and_gets_everything_from_the_next(
    proxy: Proxy,
    recipe: dict[str, Any],
    output: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    page = output / "report.html"
    with record(recipe) as run:
        opened = run.id
        proxy.fault = lambda request: "500"
        run.metrics.log({"loss": 1.0}, 1)
        run.tag(slimcart__data="abc")
        page.write_text("page")
        run.artifact(page)
        with record(recipe, job="tune", parent=run.id) as child:  # begun without MLflow
            assert child.id.startswith(LOCAL)
            child.metrics.log({"accuracy": 0.5})
            worker = Outbox(child.id, output)  # as a training worker opens it, in a process of its own
            worker.log({"loss": 2.0}, 1)
            assert not worker.close(seconds=0.1)
    left = spool.waiting(output)
    assert len(left) == 3
    assert caplog.messages[-1].endswith(f"the next job with this output sends it: {', '.join(map(str, left))}")
    proxy.fault = lambda request: None
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", GENEROUS_SECONDS)
    assert read(opened).info.status == "RUNNING"
    with record(recipe, job="evaluate"):
        assert spool.waiting(output)[:-1] == []  # its own is there
    seen = read(opened)
    assert (seen.info.status, seen.data.tags["slimcart.data"]) == ("FINISHED", "abc")
    assert {each.path for each in client().list_artifacts(opened)} == {"recipe.yaml", "report.html"}
    assert steps(opened, "loss") == [1]
    below = read(find(child.id) or "")
    assert (below.info.status, below.data.tags["mlflow.parentRunId"]) == ("FINISHED", opened)
    assert (steps(below.info.run_id, "accuracy"), steps(below.info.run_id, "loss")) == ([0], [1])
    assert spool.waiting(output) == []


@fault("MLflow away, slow or failing")
def test_the_error_of_a_job_outlives_a_server_that_went_away(proxy: Proxy, recipe: dict[str, Any]):

    def job() -> None:
        with record(recipe):
            proxy.fault = lambda request: "drop"
            raise ValueError("the rows are broken")

    with pytest.raises(ValueError, match="the rows are broken"):
        job()


@fault("driver killed")
@pytest.mark.parametrize("noted", [True, False])
def test_a_killed_job_is_gone_on_with_in_its_own_runs(ended: list[Path], noted: bool):
    output = ended[0 if noted else 1]
    if not noted:
        for note in (output / ".work").glob("run-*.json"):
            note.unlink()
    recipe = {"name": "tiny", "output": str(output)}
    with record(recipe) as run, record(recipe, job="trial", parent=run.id) as below:
        with record(recipe, job="prepare", parent=run.id) as done:
            done.metrics.log({"rows": 3})
        for step in (1, 2, 3):
            run.metrics.log({"loss": 2.0}, step)
        assert read(run.id).info.status == "RUNNING"
    assert len(runs_of(output)) == (3 if noted else 6)
    assert (steps(run.id, "loss"), steps(done.id, "rows")) == ([1, 2, 3], [0])
    assert {read(each).info.status for each in (run.id, done.id, below.id)} == {"FINISHED"}
    assert not list((output / ".work").glob("run-*.json"))


@fault("driver killed")
def test_a_killed_job_that_another_recipe_follows_is_marked_as_killed(ended: list[Path]):
    with record({"name": "tiny", "output": str(ended[2]), "seed": 1}):
        pass
    assert sorted(each.info.status for each in runs_of(ended[2])) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]


@fault("driver killed")
@pytest.mark.parametrize("heard", [True, False])
def test_a_job_that_is_stopped_marks_its_runs_as_killed(ended: list[Path], heard: bool):
    output = ended[3 if heard else 4]
    assert [each.info.status for each in runs_of(output)].count("KILLED") == (2 if heard else 0)
    assert (spool.waiting(output) == []) == heard


def test_the_second_of_two_jobs_with_one_output_opens_no_run(on_mlflow: Cluster, recipe: dict[str, Any]):
    with record(recipe) as run:
        with pytest.raises(JobError, match=rf": finetune \(process {os.getpid()}\) works there"), record(recipe):
            pytest.fail("two jobs at once")
        assert read(run.id).info.status == "RUNNING"


@fault("MLflow away, slow or failing")
def test_an_opening_whose_answer_was_lost_opens_one_run(proxy: Proxy, recipe: dict[str, Any]):
    proxy.break_first(1, "runs/create", "lose")
    with record(recipe) as run:
        pass
    assert [each.info.run_id for each in runs_of(recipe["output"])] == [run.id]


def test_a_server_that_is_not_there_is_one_line_after_seconds(
    nobody: str, recipe: dict[str, Any], output: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "OPEN_TRIES", 2)
    started = time.monotonic()
    with pytest.raises(JobError) as failed, record(recipe):
        pytest.fail("the job must not begin")
    assert time.monotonic() - started < 2 * GENEROUS_SECONDS
    assert str(failed.value).startswith(f"MLflow at {nobody} does not take runs: ")
    assert "\n" not in str(failed.value)
    assert spool.waiting(output) == [], "nobody opens the run later"


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
