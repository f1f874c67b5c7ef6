"""The driver of `jobs.optimize` dies at six points of the way, or the head under a job; the same command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.entities import Run

from cluster import local, processes
from cluster.record import Cluster
from serving.bundle import read_bundle
from tests.faults.marks import fault
from tests.processes import ROOT, run, submit

POINTS = (  # what is there in the output when it dies
    "prepared/manifest.json",
    ".work/teacher-*",
    "teacher/bundle.json",
    "teacher_outputs/manifest.json",
    ".work/trials-*/search/result-0.json",
    "bundle/bundle.json",
)
TRIALS = 2
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def recipe(shop_folder: Path) -> Path:
    tree = yaml.safe_load((shop_folder / "recipe.yaml").read_text())
    tree["search"] = {"trials": TRIALS, "space": {"distillation.temperature": {"uniform": [1, 5]}}}
    tree["evaluation"] = {"steps": False}
    path = shop_folder / "killed.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@fault("driver of optimize killed, resubmitted", runs=len(POINTS), slow=True)
def test_a_killed_way_goes_on_in_the_same_runs_and_tells_each_metric_once(
    cluster: Cluster, environment: dict[str, str], recipe: Path, tmp_path: Path, seed: int
):
    name, output = f"killed-{seed}", tmp_path / "output"
    command = [sys.executable, "-m", "jobs.optimize", "--config", str(recipe)]
    command += [f"output={output}", f"tracking.experiment={name}", f"name={name}"]
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said) as driver,
    ):
        while not list(output.glob(POINTS[seed])):
            assert driver.poll() is None, (tmp_path / "said").read_text()[-4000:]
            time.sleep(0.01)
        driver.kill()
    done = run(command, environment, timeout=600)
    assert done.code == 0, done.output[-4000:]
    runs = runs_of(environment, name)
    jobs = Counter(each.data.tags["slimcart.job"] for each in runs)
    assert jobs.pop("trial") == TRIALS and jobs["optimize"] == jobs["tune"] == 1
    assert set(jobs.values()) == {1}, jobs
    assert {each.info.status for each in runs} == {"FINISHED"}


def runs_of(environment: Mapping[str, str], experiment: str) -> list[Run]:
    """All runs of an experiment, of which every metric has one value at a step."""
    import mlflow

    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id]))
    for each in runs:
        for metric in each.data.metrics:
            steps = [point.step for point in client.get_metric_history(each.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (each.info.run_name, metric, steps)
    return runs


@fault("head killed, up again", slow=True)
@pytest.mark.parametrize(("how", "kept"), [("killed", True), ("down", True), ("killed", False)])
def test_a_job_submitted_again_to_a_new_head_goes_on_where_it_was_in_the_same_run(
    own_cluster: Callable[[], Cluster], shop_folder: Path, tmp_path: Path, how: str, kept: bool
):
    """The head is ended by `down`, with MLflow; or everything of Ray is killed at once, as by a machine's own death.

    Control: without its checkpoints the job begins anew.
    """
    first, output, epochs = own_cluster(), tmp_path / "output", 20
    told = ["--config", str(shop_folder / "recipe.yaml"), f"output={output}", f"teacher.epochs={epochs}"]
    told += ["tracking.experiment=head"]
    ray = str(Path(sys.executable).with_name("ray"))
    submission = [ray, "job", "submit", "--no-wait", "--working-dir", str(ROOT), "--", "python", "-m", "jobs.finetune"]
    begun = run([*submission, *told], os.environ | first.environment(), timeout=300)
    assert begun.code == 0, begun.output
    wait_for(lambda: any(output.glob(".work/teacher-*/epoch-*")))
    if how == "killed":
        assert first.ray
        for process in (killed := processes.members(first.ray)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(killed, timeout=PATIENCE_SECONDS)
    else:
        local.down(first.state)
    assert not (output / "teacher").exists(), "it had ended before"
    if not kept:
        for checkpoint in output.glob(".work/teacher-*/epoch-*"):
            shutil.rmtree(checkpoint)
    environment = os.environ | own_cluster().environment()
    done = submit(environment, "jobs.finetune", *told)
    assert done.code == 0 and done.result, done.output[-4000:]
    assert f"epoch {epochs}/{epochs}:" in done.output
    assert ("epoch 1/" not in done.output) == kept
    (only,) = runs_of(environment, "head")
    assert (only.info.run_id, only.info.status) == (done.result["run_id"], "FINISHED")
    assert read_bundle(output / "teacher").metrics["best_epoch"] > 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
