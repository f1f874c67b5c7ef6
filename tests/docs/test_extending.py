"""What docs/extending.md shows, added to a copy of the project: it fits, and goes the whole way on the tiny shop."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.documents import Block, blocks
from tests.processes import ROOT, run, submit

PAGE = ROOT / "docs" / "extending.md"
NEW, CHANGED = "# new file: ", "--- "
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
# Left out: what imports all verbs and all that tables name. What the page names is imported by the jobs below.
ARCHITECTURE = "not heavy_libraries and not names_as_text"


class Made(NamedTuple):
    """What a verb said, and the manifest of its bundle as it lies there: this process does not know the task."""

    result: dict[str, Any]
    bundle: dict[str, Any]


def text(block: Block) -> str:
    return "".join(f"{line.text}\n" for line in block.lines)


def the_recipe() -> str:
    (shown,) = (block for block in blocks(PAGE) if block.language == "text")
    return text(shown)


def file_of(block: Block) -> str | None:
    """The file that a block is added to, or is."""
    first = block.lines[0].text
    return next((first.removeprefix(mark) for mark in (NEW, CHANGED) if first.startswith(mark)), None)


def add(block: Block, project: Path) -> None:
    """What a reader does with a block."""
    where, first = block.lines[0]
    file = project / str(file_of(block))
    if first.startswith(NEW):
        assert not file.exists(), where
        file.parent.mkdir(exist_ok=True)
        file.write_text(text(block).partition("\n")[2], encoding="utf-8")
        return
    marked = [line.text for line in block.lines[1:]]
    before, after = ("".join(f"\n{line[1:]}" for line in marked if line[0] in kinds) for kinds in (" -", " +"))
    there = file.read_text(encoding="utf-8")
    assert there.count(f"{before}\n") == 1, f"{where}: {file.name} does not hold these lines, and once"
    file.write_text(there.replace(f"{before}\n", f"{after}\n"), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project with what the page adds, and nothing else."""
    copy = tmp_path_factory.mktemp("extended") / "slimcart"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    for block in blocks(PAGE):
        if file_of(block):
            add(block, copy)
    return copy


@pytest.fixture(scope="module")
def flagged(shop_folder: Path) -> Path:
    """The recipe of the page on the tiny shop: of its five intents three are a yes."""
    tree = yaml.safe_load((shop_folder / "recipe.yaml").read_text(encoding="utf-8"))
    folder = shop_folder / "flagged"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (shop_folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        yes = sorted({row["label"] for row in rows})[:3]
        said = [row | {"label": "yes" if row["label"] in yes else "no"} for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in said), encoding="utf-8")
        tree["data"][split] = str(folder / f"{split}.jsonl")
    for name, given in yaml.safe_load(the_recipe()).items():
        tree[name] = tree[name] | given if isinstance(given, dict) and name in tree else given
    tree["evaluation"] = {"baselines": [], "steps": False}
    tree["export"]["batches"] = [1]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def test_each_block_of_the_page_is_added_or_is_the_recipe():
    assert {block.language for block in blocks(PAGE) if not file_of(block)} == {"text"}


def test_what_is_added_keeps_the_rules(project: Path):
    added = sorted({file for block in blocks(PAGE) if (file := file_of(block))})
    checked = run([sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", *added], os.environ, project)
    assert checked.code == 0, checked.output
    tests = ["-q", "-p", "no:cacheprovider", "-k", ARCHITECTURE, "tests/test_architecture.py"]
    done = run([sys.executable, "-m", "pytest", *tests], os.environ, project, timeout=300)
    assert done.code == 0, done.output[-4000:]


def test_the_recipe_resolves_and_a_step_that_the_runtime_does_not_take_is_refused(project: Path):
    (project / "flagged.yaml").write_text(f"extends: configs/intent.yaml\n{the_recipe()}", encoding="utf-8")
    command = [sys.executable, "-m", "jobs.compress", "--config", "flagged.yaml", "--print-config"]
    environment = os.environ | {"SLIMCART_HOME": str(project)}
    done = run(command, environment, project)
    assert done.code == 0, done.output
    resolved = yaml.safe_load(done.output)
    assert (resolved["task"], resolved["export"]["runtime"]) == ("flag", "onnx_reference")
    assert resolved["compression"][0] == {"step": "clip", "name": None, "max_loss": None, "deviations": 2.0}
    assert resolved["distillation"]["weights"]["total_variation"] == 1.0
    refused = run([*command, "compression=[{step: export}, {step: quantize}]"], environment, project)
    assert refused.code == 2 and "'quantize' works on files of onnxruntime" in refused.output


@pytest.fixture(scope="module")
def jobs(environment: dict[str, str], project: Path, flagged: Path) -> dict[str, Made]:
    """What each verb ends with."""
    found: dict[str, Made] = {}
    for verb in ("prepare", "finetune", "distill", "compress", "evaluate"):
        ended = submit(environment, f"jobs.{verb}", "--config", str(flagged), folder=project)
        assert ended.code == 0, ended.output[-4000:]
        assert ended.result is not None
        manifest = Path(ended.result.get("bundle", ""), "bundle.json")
        found[verb] = Made(ended.result, json.loads(manifest.read_text()) if manifest.exists() else {})
    return found


@pytest.mark.parallel
def test_the_student_learns_by_the_new_objective(jobs: dict[str, Made]):
    """It has a loss, and no other term has a weight."""
    assert jobs["distill"].result["metrics"]["train_loss"] > 0


@pytest.mark.parallel
def test_the_bundle_is_of_the_task_for_the_runtime_and_the_step_left_its_fact(jobs: dict[str, Made]):
    bundle = jobs["compress"].bundle
    assert (bundle["task"], bundle["runtime"], bundle["labels"]) == ("flag", "onnx_reference", ["no", "yes"])
    assert bundle["provenance"]["facts"]["clip"]["clipped"] > 0
    assert bundle["provenance"]["facts"]["forms"]["onnx_reference f32"]["float"]["same"] >= 0.999
    assert 0 <= bundle["metrics"]["validation_f1"] <= 1


@pytest.mark.parallel
def test_the_evaluation_goes_by_the_metric_of_the_task(jobs: dict[str, Made]):
    metrics = jobs["evaluate"].result["metrics"]
    for contender in ("teacher", "student", "winner"):
        assert 0 < metrics[f"{contender}_f1"] <= 1
    assert metrics["retention"] == pytest.approx(metrics["winner_f1"] / metrics["teacher_f1"])
    assert "winner_accuracy" not in metrics
