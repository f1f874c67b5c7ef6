"""What a job prints and leaves, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from ray.exceptions import RayTaskError

import jobs.prepare
from cluster.session import JobError
from cluster.task_errors import TaskError
from configs.folder import FolderError
from configs.loader import UsageError, describe, load
from configs.schema.recipe import Recipe
from configs.schema.tasks import CLASSIFY, GENERATE, Task
from jobs.command import Result, headlines
from jobs.job import of_validation
from tests.jobs.commands import command
from tests.processes import ROOT, run

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(UsageError("data.train: x.csv:\n no such file"), 2), (JobError("no room"), 1), (FolderError("a: damaged"), 1)],
)
def test_a_known_fault_of_the_job_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Exception, code: int
):
    def fail(recipe: Recipe) -> Result:
        raise fault

    (tmp_path / "recipe.yaml").write_text("name: a\n")
    left = command(capsys, "--config", str(tmp_path / "recipe.yaml"), run=fail)
    assert left == (code, "", "error: " + " ".join(str(fault).split()) + "\n")


@pytest.mark.parametrize(
    ("known", "code"), [(UsageError("data.text: none"), 2), (JobError("lost"), 1), (FolderError("a: damaged"), 1)]
)
def test_a_known_fault_of_a_ray_task_is_the_same_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: Exception, code: int
):
    def fail(recipe: Recipe) -> Result:
        raise RayTaskError("task", "Traceback ...", TaskError(known)).as_instanceof_cause()

    (tmp_path / "recipe.yaml").write_text("name: a\n")
    left = command(capsys, "--config", str(tmp_path / "recipe.yaml"), run=fail)
    assert left == (code, "", f"error: {known}\n")


@pytest.mark.parametrize("kind", [UsageError, JobError, RuntimeError])
def test_no_error_shows_what_opens_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type[Exception]
):
    def fail(recipe: Recipe) -> Result:
        raise kind("https://user:secret@host/rows.csv?token=abc: is away")

    (tmp_path / "recipe.yaml").write_text("name: a\n")
    _, _, err = command(capsys, "--config", str(tmp_path / "recipe.yaml"), run=fail)
    assert err.endswith("https://host/rows.csv?…: is away\n")
    assert not any(word in err.rpartition("Error: ")[2] for word in ("secret", "abc"))


def test_a_fault_of_ours_keeps_its_traceback_and_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def fail(recipe: Recipe) -> Result:
        raise RuntimeError("surprise")

    (tmp_path / "recipe.yaml").write_text("name: a\n")
    code, out, err = command(capsys, "--config", str(tmp_path / "recipe.yaml"), run=fail)
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert err.endswith("\nerror: RuntimeError: surprise\n")


def test_the_last_line_is_the_result_as_one_json_object(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    code, out, err = command(capsys, "--config", str(tmp_path / "recipe.yaml"))
    assert (code, err) == (0, "")
    last = out.splitlines()[-1]
    assert last.startswith("RESULT ")
    result = json.loads(last.removeprefix("RESULT "))
    assert result == {"job": "prepare", "run_id": "run-1", "output": str(home / "a"), "metrics": {"rows": 1.0}}
    assert json.loads((home / "a" / "result.json").read_text()) == result


def test_the_line_of_a_result_with_many_metrics_holds_the_headlines_and_its_file_all(tmp_path: Path):
    metrics = {f"winner_batch{number}_p50_ms": 1.0 for number in range(40)}
    metrics |= {"accuracy": 0.9, "retention": 0.99, "p95_ms": 2.0, "megabytes": 3.0, "speedup_batch1_tokens32": 20.0}
    result = Result("evaluate", "run-1", str(tmp_path / "out"), metrics)
    told = json.loads(result.line(CLASSIFY.headline).removeprefix("RESULT "))["metrics"]
    assert list(told) == ["accuracy", "retention", "speedup_batch1_tokens32", "p95_ms", "megabytes"]
    result.write()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"] == metrics


@pytest.mark.parametrize("task", [CLASSIFY, GENERATE])
def test_no_more_than_a_dozen_metrics_stand_on_the_line(task: Task):
    many = dict.fromkeys(task.headline, 1.0) | {str(number): 0.0 for number in range(40)}
    assert list(headlines(many, task.headline)) == list(task.headline[:12])


def test_what_is_kept_on_validation_rows_is_named_so():
    found = of_validation({"retention": 0.9, "test_retention": 0.8, "test_accuracy": 0.7, "p95_ms": 1.0})
    assert found == {"validation_retention": 0.9, "retention": 0.8, "accuracy": 0.7, "p95_ms": 1.0}


def test_overrides_may_stand_before_and_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    arguments = ["name=b", "--config", str(tmp_path / "recipe.yaml"), "seed=3", "--print-config", "engine.workers=2"]
    code, out, _ = command(capsys, *arguments)
    printed = yaml.safe_load(out)
    assert (code, printed["name"], printed["seed"], printed["engine"]["workers"]) == (0, "b", 3, 2)


def test_help_lists_every_field_with_type_unit_and_default(capsys: pytest.CaptureFixture[str]):
    code, out, err = command(capsys, "--help")
    assert (code, err) == (0, "")
    assert out.startswith((jobs.prepare.__doc__ or "").splitlines()[0])
    assert "python -m jobs.prepare --config" in out
    lines = out.splitlines()
    for key, kind, default, description in describe(Recipe):
        (at,) = [index for index, line in enumerate(lines) if line.startswith(f"  {key}  (")]
        assert kind in lines[at]
        assert default in lines[at]
        assert lines[at + 1].strip() == description
        assert description or key.endswith(".step"), f"{key} has no description"
    assert "  serving.request_timeout_s  (float > 0; default 10)" in lines
    assert "  name  (str; required)" in lines


def test_a_printed_config_is_the_same_recipe_when_loaded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\ndata: {train: /tmp/ä.csv, test: null}\nstudent: {layers: [0, 5]}\n"
        "compression: [{step: prune, name: first}, {step: export}]\n"
        "search: {space: {compression.first.sparsity: {quniform: [0.1, 0.5, 0.1]}}}\n"
    )
    code, out, _ = command(capsys, "--config", str(path), "--print-config", "budget.max_p95_ms=2.5")
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    assert load(Recipe, tmp_path / "again.yaml") == load(Recipe, path, ["budget.max_p95_ms=2.5"])


def python(*arguments: str, **environment: str):
    inherited = {name: value for name, value in os.environ.items() if name != "SLIMCART_HOME"}
    return run([sys.executable, "-m", "jobs.prepare", *arguments], {**inherited, **environment})


def test_a_real_process_refuses_a_recipe_with_code_2_and_one_line(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("name: a\nengine: {worker: 2}\n")
    done = python("--config", str(tmp_path / "recipe.yaml"), SLIMCART_HOME=str(tmp_path))
    assert done.code == 2
    expected = f"error: {tmp_path}/recipe.yaml: engine.worker: unknown key (value 2); did you mean 'workers'?\n"
    assert done.output == expected


def test_a_real_process_without_home_is_refused_with_code_2_and_one_line():
    done = python("--config", str(ROOT / "configs" / "base.yaml"))
    assert done.code == 2
    assert done.output.startswith("error: environment: SLIMCART_HOME is not set; ")
    assert done.output.count("\n") == 1


def test_a_real_process_prints_help_into_a_pipe_that_closes_early():
    shell = f"'{sys.executable}' -m jobs.prepare --help | head -1; echo \"${{PIPESTATUS[0]}}\""
    done = run(["bash", "-c", shell], os.environ)
    first, code = done.output.splitlines()
    assert first == (jobs.prepare.__doc__ or "").splitlines()[0]
    assert code == "0"
