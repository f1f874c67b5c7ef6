"""The whole verb on the cluster: killed on its way, it goes on, and finds what it made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.record import Cluster
from configs.folder import read_manifest
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.score import run
from jobs.scoring import MANIFEST
from serving.bundle import bundle_digest
from serving.runtime import load_bundle
from tests.faults.marks import fault
from tests.processes import ROOT
from tests.tiny.bundles import WORDS, write_tiny_bundle
from tests.tiny.scores import written_rows

TEXTS = [f"{first} {second} {third}" for first in WORDS[4:] for second in WORDS[4:] for third in WORDS[4:]]


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """A recipe of 729 rows, a hundred in a file of answers."""
    write_tiny_bundle(tmp_path / "out" / "bundle")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    score = {"input": str(rows), "rows_per_file": 100, "workers": 2}
    return {"name": "tiny-score", "output": str(tmp_path / "out"), "score": score, "data": {"test": None}}


def check_answers(asked: dict[str, Any], bundle: Path) -> None:
    """Each row is there once, in order, with what the bundle says of it."""
    found = written_rows(Path(asked["output"]) / "scores")
    assert [(row["id"], row["text"]) for row in found] == list(enumerate(TEXTS))
    wanted = load_bundle(bundle).predict(TEXTS)
    assert [row["label"] for row in found] == [each["label"] for each in wanted]
    assert [row["score"] for row in found] == pytest.approx([each["score"] for each in wanted], abs=1e-5)
    assert {(row["model"], row["version"]) for row in found} == {("tiny", bundle_digest(bundle)[:12])}
    left = [each.name for each in (Path(asked["output"]) / ".work").iterdir()]
    assert not [name for name in left if name.startswith(("rows-", "scores-"))], left


def test_rows_are_answered_once_in_order_and_anew_where_they_changed(
    asked: dict[str, Any], on_cluster: Cluster, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    caplog.set_level("INFO")
    folder = Path(asked["output"]) / "scores"
    result = run(Recipe.model_validate(asked))
    assert (result.job, result.scores, result.metrics["rows"]) == ("score", str(folder), len(TEXTS))
    assert result.metrics["rows_per_second"] > 0 and result.metrics["refused_rows"] == 0
    check_answers(asked, folder.with_name("bundle"))
    assert len(list(folder.glob("part-*"))) == 8
    before = read_manifest(folder, MANIFEST)

    run(Recipe.model_validate(asked))
    assert "score: not run again" in caplog.text and read_manifest(folder, MANIFEST) == before
    with Path(asked["score"]["input"]).open("a") as file:
        file.write('{"id": 729, "text": "now"}\n')
    assert run(Recipe.model_validate(asked)).metrics["rows"] == len(TEXTS) + 1
    assert read_manifest(folder, MANIFEST)["key"] != before["key"]
    printed = capfd.readouterr()
    assert not [each for each in TEXTS if each in caplog.text + printed.out + printed.err]
    many = asked | {"score": asked["score"] | {"workers": 99, "output": str(folder.with_name("other"))}}
    with pytest.raises(
        UsageError, match=r"^score\.workers: 99 x serving\.threads=1 = 99 cores, the cluster has 4; use"
    ):
        run(Recipe.model_validate(many))


@fault("score: killed", slow=True)
def test_a_job_that_was_killed_goes_on_and_what_was_whole_stays(
    asked: dict[str, Any], on_cluster: Cluster, environment: dict[str, str], tmp_path: Path
):
    asked["score"]["rows_per_file"] = 3
    (tmp_path / "recipe.yaml").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "jobs.score", "--config", str(tmp_path / "recipe.yaml")]
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        while len(whole := list(tmp_path.glob("out/.work/scores-*/part-*/part-*.jsonl"))) < 5:
            assert killed.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        killed.kill()
    assert killed.wait() == -9 and not (tmp_path / "out" / "scores").exists()
    written = {each.name: each.stat().st_ino for each in whole}
    run(Recipe.model_validate(asked))
    assert {name: (tmp_path / "out" / "scores" / name).stat().st_ino for name in written} == written
    check_answers(asked, tmp_path / "out" / "bundle")
    assert not [each for each in TEXTS if each in (tmp_path / "log").read_text()]


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ({"input": None}, "score.input: missing; give"),
        ({"output": "{folder}"}, "the output {folder}/out lies there; name a folder of its own"),
        ({"output": "{folder}/mine"}, "score.output: {folder}/mine: holds other files; name a folder of its own"),
        ({"keep": ["ID"]}, "no column 'ID'; columns here: id, text"),
    ],
)
def test_what_it_cannot_do_is_refused_before_the_job(
    score: dict[str, Any], said: str, asked: dict[str, Any], tmp_path: Path
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    given = {name: each.format(folder=tmp_path) if isinstance(each, str) else each for name, each in score.items()}
    with pytest.raises(UsageError) as refused:
        run(Recipe.model_validate(asked | {"score": asked["score"] | given}))
    assert said.format(folder=tmp_path) in str(refused.value)


def test_a_bundle_that_is_not_there_is_refused(asked: dict[str, Any]):
    with pytest.raises(UsageError, match=r"^bundle: /nowhere: no such folder"):
        run(Recipe.model_validate(asked | {"bundle": "/nowhere"}))
