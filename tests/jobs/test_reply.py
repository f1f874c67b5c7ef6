"""The verb in this process, with a real MLflow: what it makes, finds again, registers and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import registry
from cluster.record import Cluster
from cluster.registry import CHALLENGER
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.job import of_validation
from jobs.reply import run
from jobs.versions import STAGES
from serving.bundle import MANIFEST, BundleError, bundle_digest, read_bundle
from serving.reply import load_reply
from serving.runtime import load_bundle
from tests.tiny.bundles import WORDS, write_tiny_bundle

TEXTS = [f"{first} {second}" for first in WORDS[4:] for second in WORDS[4:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<output>/bundle, and rows with replies that it is right about."""
    folder = tmp_path_factory.mktemp("reply")
    write_tiny_bundle(folder / "bundle", metrics={"retention": 0.99})
    said = load_bundle(folder / "bundle").predict(TEXTS)
    for split in ("train", "validation"):
        rows = [
            {"text": text, "label": each["label"], "said": f"{each['label']} at {{{{Site}}}}"}
            for text, each in zip(TEXTS, said, strict=True)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(folder: Path, **sections: Any) -> Recipe:
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")} | {"test": None}
    reply = {"column": "said", "min_right": 0.9} | sections.pop("reply", {})
    tree = {"name": "tiny-replies", "output": str(folder), "data": data, "reply": reply, **sections}
    return Recipe.model_validate(tree)


def test_a_classifier_gets_replies_and_is_registered_as_challenger_once(
    folder: Path, on_mlflow: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    result = run(recipe(folder))
    assert (result.job, result.bundle, result.model_uri) == ("reply", str(folder / "reply"), "models:/tiny-replies/1")
    bundle = read_bundle(folder / "reply")
    assert of_validation(bundle.metrics) == result.metrics
    assert result.metrics["validation_retention"] == 0.99  # of its classifier, whose model it is
    assert result.metrics["validation_accuracy"] == result.metrics["validation_answered_right"] == 1
    assert result.metrics["validation_handed_over"] == 0 and result.metrics["p95_ms"] > 0
    assert bundle.provenance["reply"]["bundle"] == bundle_digest(folder / "bundle")
    assert "README.md" in bundle.files
    (reply,) = load_reply(folder / "reply").predict([{"input": TEXTS[0], "fields": {"Site": "s"}}])
    assert reply["text"] == f"{reply['intent']} at s"
    fetched = registry.folder(f"models:/tiny-replies@{CHALLENGER}", MANIFEST)
    assert read_bundle(fetched) == bundle

    caplog.set_level("INFO")
    before = bundle_digest(folder / "reply")
    assert run(recipe(folder)).model_uri == "models:/tiny-replies/1"
    assert "reply: not run again" in caplog.text and bundle_digest(folder / "reply") == before
    monkeypatch.setitem(STAGES, "reply", STAGES["reply"]._replace(version=99))
    assert run(recipe(folder)).model_uri == "models:/tiny-replies/2"
    assert registry.alias_version("tiny-replies", CHALLENGER) == "2"

    with pytest.raises(BundleError, match=r"a bundle of kind 'reply'; give the classifier that it was made of"):
        run(recipe(folder, bundle=str(folder / "reply")))


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"bundle": "/nowhere"}, "bundle: /nowhere: no such folder"),
        ({"reply": {"column": "answer"}}, "no column 'answer'; columns here: text, label, said"),
        ({"reply": {"source": "decoder", "decoder": "/nowhere"}}, "reply.decoder: /nowhere: no such folder"),
    ],
)
def test_what_it_cannot_do_is_refused_before_the_job(folder: Path, sections: dict[str, Any], reason: str):
    with pytest.raises(UsageError) as refused:
        run(recipe(folder, **sections))
    assert reason in str(refused.value)


def test_a_recipe_without_replies_is_refused():
    with pytest.raises(UsageError, match=r"^reply\.column: missing; name the column"):
        run(Recipe(name="x"))
