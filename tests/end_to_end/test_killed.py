"""The driver of `jobs.optimize` dies at six points of the way; the same command then goes on to the end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cluster.record import Cluster
from tests.faults import fault
from tests.processes import ROOT, run

POINTS = (  # what is there in the output when it dies
    "prepared/manifest.json",
    ".work/teacher-*",
    "teacher/bundle.json",
    "teacher_outputs/manifest.json",
    ".work/trials-*/search/result-0.json",
    "bundle/bundle.json",
)
TRIALS = 2


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
    import mlflow

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
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    jobs = Counter(each.data.tags["slimcart.job"] for each in runs)
    assert jobs.pop("trial") == TRIALS and jobs["optimize"] == jobs["tune"] == 1
    assert set(jobs.values()) == {1}, jobs
    assert {each.info.status for each in runs} == {"FINISHED"}
    for each in runs:
        for metric in each.data.metrics:
            steps = [point.step for point in client.get_metric_history(each.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (each.info.run_name, metric, steps)
