"""Replies by their commands: from rows with replies to an answer over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from serving.bundle import bundle_digest, read_bundle
from serving.reply import load_reply
from tests.processes import Done, free_port, submit

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def recipe(shop_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny shop's recipe, over rows that have replies."""
    folder = tmp_path_factory.mktemp("replies")
    tree = yaml.safe_load((shop_folder / "recipe.yaml").read_text())
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (shop_folder / f"{split}.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            row["order"] = f"No {1000 + number}" if number % 2 else ""
            if split != "test":
                row["response"] = f"About {row['label']} of {row['order'] or 'it'}: write to {{{{Mail}}}}."
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        tree["data"][split] = str(folder / f"{split}.jsonl")
    tree |= {"name": "tiny-reply", "reply": {"column": "response", "fields": ["order"], "min_right": 0.3}}
    tree["budget"] = {"min_retention": 0.1, "margin": 0}
    tree["teacher"]["epochs"] = 4
    tree["evaluation"] = {"baselines": [], "steps": False}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def done(environment: dict[str, str], recipe: Path) -> Done:
    """`optimize` with deploy."""
    port = f"serving.port={free_port(9600)}"
    ended = submit(environment, "jobs.optimize", "--config", str(recipe), port, "deploy=true", timeout=900)
    assert ended.code == 0, ended.output[-4000:]
    return ended


def result(done: Done) -> dict[str, Any]:
    assert done.result is not None
    return done.result


def test_the_bundle_that_replies_is_evaluated_registered_and_deployed(done: Done):
    found, folder = result(done), Path(result(done)["bundle"])
    assert (folder.name, found["model_uri"]) == ("reply", "models:/tiny-reply/2")  # 1 is its classifier
    bundle = read_bundle(folder)
    assert bundle.kind == "reply" and bundle.metrics["retention"] > 0 and bundle.metrics["p95_ms"] > 0
    assert bundle.provenance["reply"]["bundle"] == bundle_digest(folder.parent / "bundle")
    assert bundle.provenance["reply"]["source"] == "template"
    evaluation = json.loads((folder.parent / "evaluation" / "manifest.json").read_text())
    assert evaluation["bundle"] == bundle_digest(folder)
    metrics = found["metrics"]
    assert metrics["open_placeholders"] == 0 and 0 <= metrics["handed_over"] < 1 and metrics["answered_right"] > 0
    assert bundle.metrics["validation_answered_right"] >= 0.3
    assert f"{metrics['handed_over']:.1%} are handed over" in done.output
    assert "are handed over" in Path(found["report"]).read_text()


def test_a_message_is_answered_over_http_as_by_the_runtime(done: Done):
    texts, fields = ["where is my parcel", "cancel it please"], {"order": "{{x}}", "Mail": "a@b.c"}
    answer = requests.post(result(done)["endpoint"], json={"inputs": texts, "fields": fields}, timeout=30)
    assert answer.status_code == 200, answer.text
    expected = load_reply(result(done)["bundle"]).predict([{"input": text, "fields": fields} for text in texts])
    found = answer.json()
    assert found["model"] == {"name": "tiny-reply", "version": "2"}
    for ours, theirs in zip(found["predictions"], expected, strict=True):
        assert {**ours, "score": pytest.approx(ours["score"], abs=1e-5)} == theirs


def test_the_same_command_again_makes_nothing(done: Done, environment: dict[str, str], recipe: Path):
    again = submit(environment, "jobs.reply", "--config", str(recipe))
    assert again.code == 0, again.output[-4000:]
    assert "reply: not run again" in again.output
    assert result(again)["model_uri"] == result(done)["model_uri"]
