from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from jobs.data.source import rows
from jobs.data.spec import DataSpec
from jobs.measure.contenders import Contender, fit_linear, joined, load
from tests.serving.tiny import LABELS, write_tiny_bundle


def data(folder: Path, **fields: str) -> DataSpec:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    return DataSpec.model_validate(files | fields)


def test_the_linear_baseline_is_scikit_learns_pipeline(shop_folder: Path):
    spec = data(shop_folder)
    train, validation = list(rows(spec, "train")), list(rows(spec, "validation"))
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC())
    pipeline.fit([row.text for row in train], [row.label for row in train])
    texts = [row.text for row in validation]
    predicted = load(Contender(name="linear", kind="linear"), spec, threads=1)(texts)
    assert predicted == pipeline.predict(texts).tolist()
    assert all(type(label) is str for label in predicted)


def test_the_linear_baseline_reads_both_texts_of_a_pair(tmp_path: Path):
    """The first text says nothing about the label; the second says all."""
    for split in ("train", "validation"):
        with (tmp_path / f"{split}.jsonl").open("w") as file:
            for index in range(20):
                label = ["cold", "hot"][index % 2]
                word = {"cold": "ice", "hot": "fire"}[label]
                file.write(json.dumps({"query": "what is it", "title": f"some {word}", "label": label}) + "\n")
    predict = fit_linear(data(tmp_path, text="query", text_pair="title"))
    assert predict([("what is it", "much fire"), ("what is it", "much ice")]) == ["hot", "cold"]


def test_the_nearest_row_answers_with_its_own_text(tmp_path: Path):
    rows = [{"text": {"name": name, "type": "tv"}, "label": f"{name} is a tv"} for name in ("Apollo", "Hermes")]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict = load(Contender(name="n", kind="nearest"), DataSpec(train=str(file)), 1)
    assert predict(["name: Hermes; type: radio", "name: Apollo; type: tv"]) == ["Hermes is a tv", "Apollo is a tv"]


def test_joined_is_one_text_of_what_there_is():
    assert joined("one") == "one"
    assert joined(("one", None)) == "one"
    assert joined(("one", "two")) == "one two"


def test_a_bundle_answers_with_label_names_in_order(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    contender = Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle"))
    spec = DataSpec.model_validate({"train": "train.jsonl", "validation": "validation.jsonl"})
    predict = load(contender, spec, threads=1)
    texts = ["where is my order", "refund please", "cancel it now"]
    answers = predict(texts)
    assert set(answers) <= set(LABELS)
    assert predict(texts[::-1]) == answers[::-1]


def test_a_contender_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="linear"):
        Contender.model_validate({"name": "x", "kind": "magic"})
