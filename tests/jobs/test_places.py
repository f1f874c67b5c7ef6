"""Commands of processes of their own, whose environment names a Hub and places."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.answering import answering
from tests.processes import ROOT, Done, run

SECRET = "https://store.example/rows.csv?signature=abcdef123456"


def prepare(folder: Path, *overrides: str, **environment: str) -> Done:
    (folder / "recipe.yaml").write_text("name: shop\ndata: {test: null}\n")
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own |= {"SLIMCART_HOME": str(folder), "MLFLOW_TRACKING_URI": f"file:{folder}/runs", "HF_HOME": str(folder / "hub")}
    command = [sys.executable, "-m", "jobs.prepare", "--config", str(folder / "recipe.yaml"), *overrides]
    return run(command, own | {"PYTHONPATH": str(ROOT)} | environment, timeout=60)


def is_one_line(done: Done) -> bool:
    return done.code == 2 and done.output.startswith("error: ") and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "and the Hub refuses to answer (401); correct the name, or set HF_TOKEN"), (503, "does not answer (503)")],
)
def test_a_misspelt_folder_that_could_be_an_id_is_one_line_after_one_request(tmp_path: Path, status: int, said: str):
    with answering(status) as hub:
        done = prepare(tmp_path, "teacher.model=shop/modle", HF_ENDPOINT=hub.address)
    assert is_one_line(done), done.output
    assert done.output.startswith("error: teacher.model: shop/modle: no such folder here, ")
    assert said in done.output
    assert len([path for path in hub.asked if path.startswith("/api/models")]) == 1
    assert not (tmp_path / "shop").exists()


def test_offline_is_one_line(tmp_path: Path):
    done = prepare(tmp_path, "teacher.model=shop/modle", HF_HUB_OFFLINE="1")
    assert is_one_line(done), done.output
    assert "HF_HUB_OFFLINE forbids to ask the Hub" in done.output


def test_a_variable_that_is_not_set_is_one_line(tmp_path: Path):
    done = prepare(tmp_path, "data.train=env:SHOP_ROWS")
    assert is_one_line(done), done.output
    assert "data.train: env:SHOP_ROWS: the environment variable SHOP_ROWS is not set" in done.output


def test_a_resolved_recipe_holds_the_name_alone(tmp_path: Path):
    done = prepare(tmp_path, "data.train=env:SHOP_ROWS", "--print-config", SHOP_ROWS=SECRET)
    assert done.code == 0, done.output
    assert "train: env:SHOP_ROWS\n" in done.output
    assert "store.example" not in done.output
