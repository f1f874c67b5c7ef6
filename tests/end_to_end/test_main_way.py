"""The whole way on a tiny shop: submitted to a real cluster, recorded by a real MLflow, served by a real Serve."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from cluster.record import Cluster
from tests.documents import README, the_command
from tests.processes import Done, free_port, run, submit

TRIALS = 2


@pytest.fixture(scope="module")
def recipe(shop_folder: Path) -> Path:
    """The tiny shop's recipe with a space to search."""
    tree = yaml.safe_load((shop_folder / "recipe.yaml").read_text())
    tree["engine"] |= {"cpus_per_worker": 2, "max_failures": 1}
    tree["search"] = {
        "trials": TRIALS,
        "concurrent": TRIALS,
        "space": {
            "student.layers": {"choice": [[0], [0, 2]]},
            "distillation.temperature": {"uniform": [1, 5]},
        },
    }
    path = shop_folder / "way.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def port() -> int:
    return free_port(9500)


class Asked(http.server.SimpleHTTPRequestHandler):
    """Serves the test file and notes when it is asked for."""

    times: ClassVar[list[float]] = []

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        self.times.append(time.time())


@pytest.fixture(scope="module")
def served_rows(shop_folder: Path) -> Iterator[str]:
    """The URL of the test file."""
    handler = functools.partial(Asked, directory=str(shop_folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/test.csv"
        server.shutdown()


@pytest.fixture(scope="module")
def own_data(shop_folder: Path, recipe: Path, served_rows: str) -> list[str]:
    """What README gives `jobs.optimize` for own data, about the tiny shop: its rows in CSV under README's columns."""
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (shop_folder / f"{split}.jsonl").read_text().splitlines()]
        with (shop_folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("message", "intent"), *((row["text"], row["label"]) for row in rows)])
    stand_for = {
        "configs/intent.yaml": str(recipe),
        "data.train=/data/train.csv": f"data.train={shop_folder}/train.csv",
        "data.validation=/data/validation.csv": f"data.validation={shop_folder}/validation.csv",
        "data.test=/data/test.csv": f"data.test={served_rows}",
        "name=my-shop": "name=tiny-shop",
    }
    words = the_command(README, "jobs.optimize").words[3:]
    assert stand_for.keys() | {"deploy=true"} <= set(words)
    return [stand_for.get(word, word) for word in words]


@pytest.fixture(scope="module")
def done(environment: dict[str, str], own_data: list[str], port: int) -> Done:
    """`optimize` with a test file that only its last stage may open, then deployed."""
    ended = submit(
        environment,
        "jobs.optimize",
        *own_data,
        "output=way",
        f"serving.port={port}",
        "serving.service=tiny",
        timeout=900,
    )
    assert ended.code == 0, ended.output[-4000:]
    return ended


@pytest.fixture(scope="module")
def unseen(shop_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that no job has read."""
    rows = [json.loads(line) for line in (shop_folder / "validation.jsonl").read_text().splitlines()]
    file = tmp_path_factory.mktemp("unseen") / "unseen.csv"
    texts = [row["text"].replace(chr(34), "") for row in rows]
    middle = sorted(map(len, texts))[len(texts) // 2]
    lines = [f'"{text}",{row["label"]},{len(text) >= middle}\n' for text, row in zip(texts, rows, strict=True)]
    file.write_text("text,label,long\n" + "".join(lines))
    return file


@pytest.fixture(scope="module")
def later(done: Done, environment: dict[str, str], recipe: Path, own_data: list[str], unseen: Path) -> dict[str, Done]:
    """Two jobs side by side: the same recipe again, and an evaluation of its winner on a file of its own."""
    assert done.result is not None
    bundle, teacher = done.result["bundle"], Path(done.result["output"], "teacher")
    jobs = {
        "again": ["jobs.optimize", *(word for word in own_data if word != "deploy=true"), "output=way"],
        "evaluate": [
            *("jobs.evaluate", "--config", str(recipe), f"bundle={bundle}", f"data.test={unseen}"),
            *(f"teacher.bundle={teacher}", "output=elsewhere", "data.slices=[long]"),
        ],
    }
    with ThreadPoolExecutor(len(jobs)) as pool:
        ends = {
            name: pool.submit(submit, environment, module, *arguments) for name, (module, *arguments) in jobs.items()
        }
        found = {name: end.result() for name, end in ends.items()}
    for ended in found.values():
        assert ended.code == 0, ended.output[-4000:]
    return found


def test_the_result_line_names_everything_that_was_made(done: Done, cluster: Cluster):
    assert done.result is not None
    assert done.result["job"] == "optimize"
    for name in ("bundle", "report"):
        assert Path(done.result[name]).exists()
    assert done.result["model_uri"] == "models:/tiny-shop/1"
    assert Path(done.result["output"]) == cluster.home / "way"
    assert done.result["metrics"]["winner_rows"] == done.result["metrics"]["teacher_rows"] > 0
    assert 0 < done.result["metrics"]["served_p50_ms"] <= done.result["metrics"]["served_p95_ms"]
    assert "A client of the service gets an answer in " in Path(done.result["report"]).read_text()


def test_every_folder_of_the_output_has_a_manifest(done: Done, cluster: Cluster):
    output = cluster.home / "way"
    for name in ("prepared", "teacher_outputs", "search", "evaluation"):
        assert (output / name / "manifest.json").exists(), name
    for name in ("teacher", "student", "bundle"):
        assert (output / name / "bundle.json").exists(), name


def test_the_card_of_the_winner_says_what_student_it_was(done: Done, cluster: Cluster):
    (line,) = [
        line
        for line in (cluster.home / "way" / "bundle" / "README.md").read_text().splitlines()
        if line.startswith("| student |")
    ]
    assert line.startswith('| student | kind "layers", layers [0')


def test_a_search_is_one_parent_run_with_one_child_for_each_trial(done: Done, cluster: Cluster):
    runs = _runs(cluster)
    (optimize,) = [run for run in runs if _tag(run, "slimcart.job") == "optimize"]
    (tune,) = [run for run in runs if _tag(run, "slimcart.job") == "tune"]
    trials = [run for run in runs if _tag(run, "slimcart.job") == "trial"]
    assert _tag(tune, "mlflow.parentRunId") == optimize["info"]["run_id"]
    assert [_tag(run, "mlflow.parentRunId") for run in trials] == [tune["info"]["run_id"]] * TRIALS
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


def test_the_question_of_readme_is_answered_in_the_form_that_it_shows(done: Done):
    assert done.result is not None
    (shown,) = (line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith('{"model"'))
    *question, _ = the_command(README, "curl").words
    asked = run([*question, "--silent", "--show-error", "--noproxy", "*", done.result["endpoint"]], os.environ)
    assert asked.code == 0, asked.output
    assert _form(json.loads(asked.output)) == _form(json.loads(shown))


def test_the_test_file_is_opened_for_its_hashes_alone_before_the_final_evaluation(done: Done, cluster: Cluster):
    """Once, before anything is trained: how the texts of rows are hashed is of tests/jobs/data/test_leaks.py."""
    (evaluate,) = [run for run in _runs(cluster) if _tag(run, "slimcart.job") == "evaluate"]
    trained = max(run["info"]["start_time"] for run in _runs(cluster) if _tag(run, "slimcart.job") == "finetune")
    during = [at for at in Asked.times if trained <= at * 1000 < evaluate["info"]["start_time"]]
    assert any(at * 1000 >= evaluate["info"]["start_time"] for at in Asked.times)
    assert not during


def test_the_same_output_again_runs_no_finished_stage(done: Done, later: dict[str, Done]):
    for stage in ("finetune", "tune", "evaluate"):
        assert f"{stage}: not run again" in later["again"].output
    assert done.result is not None
    assert later["again"].result is not None
    deployed = {"served_p50_ms", "served_p95_ms"}  # of the first alone
    assert later["again"].result["metrics"].items() == {
        each for each in done.result["metrics"].items() if each[0] not in deployed
    }


def test_a_bundle_is_evaluated_on_a_file_the_project_has_never_seen(later: dict[str, Done], unseen: Path):
    assert later["evaluate"].result is not None
    metrics = later["evaluate"].result["metrics"]
    assert metrics["retention"] == pytest.approx(metrics["winner_accuracy"] / metrics["teacher_accuracy"])
    assert metrics["winner_rows"] == unseen.read_text().count("\n") - 1
    assert 0 < metrics["winner_agreement"] <= 1
    assert metrics["winner_batch_changed"] == 0
    assert "tfidf_svm_accuracy" not in metrics


def test_winner_and_teacher_are_compared_by_class_and_slice(done: Done, later: dict[str, Done], cluster: Cluster):
    assert done.result is not None
    for name in ("tfidf_svm", "static_logreg", "student", "winner"):
        assert 0 < done.result["metrics"][f"{name}_agreement"] <= 1
    assert 0 <= done.result["metrics"]["teacher_ece"] < 1
    assert "Where the winner differs from its teacher" in Path(done.result["report"]).read_text()
    with (cluster.home / "elsewhere" / "evaluation" / "slices.csv").open() as file:
        assert {(row["slice"], row["value"]) for row in csv.DictReader(file)} == {("long", "true"), ("long", "false")}
    with (cluster.home / "elsewhere" / "evaluation" / "classes.csv").open() as file:
        assert sum(int(row["rows"]) for row in csv.DictReader(file)) == 80


def _form(value: Any) -> Any:
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: _form(below) for key, below in value.items()}
    return [_form(each) for each in value] if isinstance(value, list) else type(value)


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
