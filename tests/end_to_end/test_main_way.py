"""The whole way on a tiny shop: submitted to a real cluster, recorded by a real MLflow, served by a real Serve."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.record import Cluster
from tests.processes import Done, free_port, submit


@pytest.fixture(scope="module")
def recipe(shop_folder: Path) -> Path:
    """The tiny shop's recipe with a space to search; a dotted key of the space cannot be written as an override."""
    tree = yaml.safe_load((shop_folder / "recipe.yaml").read_text())
    tree["engine"] |= {"cpus_per_worker": 2, "max_failures": 1}
    tree["search"] = {
        "trials": 3,
        "concurrent": 2,
        "space": {
            "student.layers": {"choice": [[0], [0, 2]]},
            "distillation.temperature": {"uniform": [1, 5]},
            "compression.prune.sparsity": {"uniform": [0.0, 0.3]},
        },
    }
    path = shop_folder / "way.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def port() -> int:
    return free_port(9500)


@pytest.fixture(scope="module")
def done(environment: dict[str, str], recipe: Path, shop_folder: Path, port: int) -> Done:
    """`optimize` with a test file that only its last stage may open, then deployed."""
    ended = submit(
        environment,
        "jobs.optimize",
        "--config",
        str(recipe),
        "output=way",
        "deploy=true",
        f"serving.port={port}",
        "serving.service=tiny",
        timeout=500,
    )
    assert ended.code == 0, ended.output[-4000:]
    return ended


def test_the_result_line_names_everything_that_was_made(done: Done, cluster: Cluster):
    assert done.result is not None
    assert done.result["job"] == "optimize"
    for name in ("bundle", "report"):
        assert Path(done.result[name]).exists()
    assert done.result["model_uri"] == "models:/tiny-shop/1"
    assert Path(done.result["output"]) == cluster.home / "way"
    assert done.result["metrics"]["winner_rows"] == done.result["metrics"]["teacher_rows"] > 0


def test_every_folder_of_the_output_has_a_manifest(done: Done, cluster: Cluster):
    output = cluster.home / "way"
    for name in ("prepared", "teacher_outputs", "search", "evaluation"):
        assert (output / name / "manifest.json").exists(), name
    for name in ("teacher", "student", "bundle"):
        assert (output / name / "bundle.json").exists(), name


def test_a_search_is_one_parent_run_with_one_child_for_each_trial(done: Done, cluster: Cluster):
    runs = _runs(cluster)
    (optimize,) = [run for run in runs if _tag(run, "slimcart.job") == "optimize"]
    (tune,) = [run for run in runs if _tag(run, "slimcart.job") == "tune"]
    trials = [run for run in runs if _tag(run, "slimcart.job") == "trial"]
    assert _tag(tune, "mlflow.parentRunId") == optimize["info"]["run_id"]
    assert [_tag(run, "mlflow.parentRunId") for run in trials] == [tune["info"]["run_id"]] * 3
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    assert all(_tag(run, "slimcart.submission_id") for run in (optimize, tune))


def test_training_metrics_stand_by_epoch_in_the_run(done: Done, cluster: Cluster):
    (finetune,) = [run for run in _runs(cluster) if _tag(run, "slimcart.job") == "finetune"]
    history = _mlflow(
        cluster, f"metrics/get-history?run_id={finetune['info']['run_id']}&metric_key=validation_accuracy", None
    )
    assert [point["step"] for point in history["metrics"]] == [1, 2]


def test_the_winner_is_challenger_and_champion(done: Done, cluster: Cluster):
    for alias in ("challenger", "champion"):
        found = _mlflow(cluster, f"registered-models/alias?name=tiny-shop&alias={alias}", None)
        assert found["model_version"]["version"] == "1"


def test_the_endpoint_answers_in_order_and_names_the_model(done: Done):
    assert done.result is not None
    answer = _post(done.result["endpoint"], {"inputs": ["where is my parcel", "cancel it please"], "scores": True})
    assert answer["model"] == {"name": "tiny-shop", "version": "1"}
    assert len(answer["predictions"]) == 2
    assert sum(answer["predictions"][0]["scores"].values()) == pytest.approx(1, abs=1e-3)


def test_the_same_output_again_runs_no_finished_stage(done: Done, environment: dict[str, str], recipe: Path):
    again = submit(environment, "jobs.optimize", "--config", str(recipe), "output=way")
    assert again.code == 0, again.output[-4000:]
    for stage in ("finetune", "tune", "evaluate"):
        assert f"{stage}: not run again" in again.output
    assert done.result is not None
    assert again.result is not None
    assert again.result["metrics"] == done.result["metrics"]


@pytest.fixture(scope="module")
def nothing_fits(done: Done, environment: dict[str, str], recipe: Path) -> Done:
    """A search whose only candidate is too large, and whose test file does not exist."""
    return submit(
        environment,
        "jobs.tune",
        "--config",
        str(recipe),
        "output=way",
        "data.test=/nonexistent/test.jsonl",
        "search.trials=1",
        "distillation.epochs=1",
        "budget.max_megabytes=0.001",
    )


def test_tune_never_opens_the_test_file(nothing_fits: Done):
    assert "done (1 of 1)" in nothing_fits.output
    assert "/nonexistent" not in nothing_fits.output.split("error:")[-1]


def test_a_budget_that_nothing_fits_fails_with_the_nearest_candidate(nothing_fits: Done):
    assert nothing_fits.code == 1
    line = next(each for each in nothing_fits.output.splitlines() if "error: nothing fits the budget" in each)
    assert "max_megabytes=0.001" in line
    assert "nearest" in line


def test_a_search_without_a_winner_still_leaves_its_report(nothing_fits: Done, environment: dict[str, str]):
    page = Path(environment["SLIMCART_HOME"], "way", "report.html").read_text(encoding="utf-8")
    assert "No trial is inside the budget" in page


def test_a_bundle_is_evaluated_on_a_file_the_project_has_never_seen(
    done: Done, environment: dict[str, str], recipe: Path, tmp_path: Path, shop_folder: Path
):
    assert done.result is not None
    rows = [json.loads(line) for line in (shop_folder / "validation.jsonl").read_text().splitlines()]
    file = tmp_path / "unseen.csv"
    file.write_text("text,label\n" + "".join(f'"{row["text"].replace(chr(34), "")}",{row["label"]}\n' for row in rows))
    ended = submit(
        environment,
        "jobs.evaluate",
        "--config",
        str(recipe),
        f"bundle={done.result['bundle']}",
        f"data.test={file}",
        f"teacher.bundle={Path(done.result['output'], 'teacher')}",
        "output=elsewhere",
    )
    assert ended.code == 0, ended.output[-4000:]
    assert ended.result is not None
    metrics = ended.result["metrics"]
    assert metrics["retention"] == pytest.approx(metrics["winner_accuracy"] / metrics["teacher_accuracy"])
    assert metrics["winner_rows"] == len(rows)


def _runs(cluster: Cluster) -> list[dict[str, Any]]:
    (experiment,) = [
        each
        for each in _mlflow(cluster, "experiments/search", {"max_results": 100})["experiments"]
        if each["name"] == "slimcart"
    ]
    found = _mlflow(cluster, "runs/search", {"experiment_ids": [experiment["experiment_id"]], "max_results": 1000})[
        "runs"
    ]
    way = [run for run in found if _parameter(run, "output") == str(cluster.home / "way")]
    first = max(
        (run for run in way if _tag(run, "slimcart.job") == "optimize"), key=lambda run: -run["info"]["start_time"]
    )
    family = {first["info"]["run_id"]}
    for _ in range(2):
        family |= {run["info"]["run_id"] for run in way if _tag(run, "mlflow.parentRunId") in family}
    return [run for run in way if run["info"]["run_id"] in family]


def _tag(run: dict[str, Any], key: str) -> str | None:
    return next((tag["value"] for tag in run["data"].get("tags", []) if tag["key"] == key), None)


def _parameter(run: dict[str, Any], key: str) -> str | None:
    return next((param["value"] for param in run["data"].get("params", []) if param["key"] == key), None)


def _mlflow(cluster: Cluster, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    return _ask(f"{cluster.mlflow_url}/api/2.0/mlflow/{path}", body)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    return _ask(url, body)


def _ask(url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url}: HTTP {error.code}: {error.read()[:500]!r}") from None
