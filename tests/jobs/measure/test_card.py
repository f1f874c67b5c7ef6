from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.schema.recipe import Recipe
from configs.schema.tasks import BUDGET_SHAPE
from jobs.measure.card import card
from jobs.measure.measurement import key
from serving.bundle import Bundle, read_bundle, with_metrics
from serving.cascade import join
from serving.reply import Replies, Templates, with_replies
from tests.tiny.bundles import LABELS, decoder_description, write_tiny_bundle

ORIGIN = {
    "run_id": "5c0de0e0aa5f",
    "student": "1" * 64,
    "student_spec": {"kind": "layers", "layers": 2},
    "teacher_model": "someone/teacher@abc",
    "data": "2" * 64,
    "code": "3" * 40,
    "steps": [
        {"step": "prune", "sparsity": 0.1, "rows": "/home/someone/rows"},
        {"step": "export"},
        {"step": "quantize", "per_channel": True},
    ],
    "facts": {
        "prune": {"share of zeros": 0.1, "found in": "/home/someone/else"},
        "quantize": {"layers": 9, "in_float": ["layer.0.dense", "head"], "sensitivity": {"head": 0.1}},
        "forms": {"onnxruntime f32": {"float": {"rows": 991, "same": 0.9995, "difference": 2.14e-6}}},
    },
}
METRICS = {
    "validation_accuracy": 0.941,
    "validation_accuracy_low": 0.92,
    "validation_accuracy_high": 0.96,
    "validation_macro_f1": 0.93,
    "validation_rows": 1000,
    "retention": 0.9912,
    key(BUDGET_SHAPE, "p50_ms"): 1.234,
    key(BUDGET_SHAPE, "p95_ms"): 2.5,
    key(BUDGET_SHAPE, "p99_ms"): 3.75,
    key(BUDGET_SHAPE, "calls"): 300,
    key(BUDGET_SHAPE, "p95_ms_others_low"): 2.75,
    key(BUDGET_SHAPE, "p95_ms_others_high"): 9.0,
    key(BUDGET_SHAPE, "busy"): 0.25,
}


def recipe(**sections: Any) -> Recipe:
    tree = {"name": "tiny", "data": {"train": "/home/someone/train.csv", "test": "/home/someone/test.csv"}}
    return Recipe.model_validate({**tree, **sections})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_tiny_bundle(tmp_path / "bundle", provenance=ORIGIN)
    return with_metrics(tmp_path / "bundle", METRICS)


def test_a_card_says_how_noisy_its_latency_was(bundle: Bundle):
    text = card(bundle, recipe())
    assert "p95 of the other blocks: 2.75 to 9.00 ms." in text
    assert "The machine was busy: the bundle was kept from the CPU for 25% of the time" in text


def test_a_card_says_what_the_model_is_where_it_comes_from_and_what_was_measured(bundle: Bundle):
    text = card(bundle, recipe())
    for words in (
        ", ".join(f"`{label}`" for label in LABELS),
        "A student of `someone/teacher@abc`",
        '| student | kind "layers", layers 2 |',
        *(f"`{ORIGIN[name]}`" for name in ("data", "student", "code", "run_id")),
        "1. prune: sparsity 0.1",
        "3. quantize: per_channel true; 2 of 9 layers stay in float: layer.0.dense, head",
        "In float the file answers as the model on 99.95% of 991 rows; no logit differs by more than 2.1e-06.",
        '"share of zeros": 0.1',
        "| accuracy | 0.9410 (95 % interval 0.9200 to 0.9600) |",
        "| share of the teacher's accuracy | 99.12% (asked for: 99.00%) |",
        "| rows | 1,000 |",
        "| batch 1, 32 tokens | 300 | 1.23 | 2.50 | 3.75 |",
        "On one thread",
        "cut after 12 tokens",
    ):
        assert words in text


def test_its_head_is_yaml_that_names_a_teacher_of_the_hub(bundle: Bundle):
    _, head, _ = card(bundle, recipe()).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "pipeline_tag": "text-classification",
        "library_name": "onnxruntime",
        "base_model": "someone/teacher",
        "tags": ["slimcart", "distillation", "prune", "export", "quantize"],
    }


@pytest.mark.parametrize("model", ["/home/someone/model", None])
def test_a_card_holds_no_path_and_no_source_of_rows(tmp_path: Path, model: str | None):
    bundle = write_tiny_bundle(tmp_path / "bundle", provenance={**ORIGIN, "teacher_model": model})
    text = card(bundle, recipe(teacher={"model": "m", "bundle": "/home/someone/teacher"}))
    assert "/home" not in text and "someone" not in text and ".csv" not in text
    assert "base_model" not in text
    assert ("`a local folder`" if model else "A student of a teacher bundle") in text


def test_a_card_of_a_cascade_is_of_both_its_models_and_of_none_of_their_own_cards(tmp_path: Path):
    small = ORIGIN | {"student_spec": {"kind": "conv", "layers": 1}, "steps": [{"step": "fold"}, {"step": "export"}]}
    for name, origin in (("first", small), ("second", ORIGIN)):
        write_tiny_bundle(tmp_path / name, provenance=origin)
        with_metrics(tmp_path / name, METRICS, lambda bundle: card(bundle, recipe()))
    made = {
        name: {"bundle": 64 * name[0], "provenance": origin} for name, origin in (("first", small), ("second", ORIGIN))
    }
    alone = {"validation_first_accuracy": 0.81, "validation_second_accuracy": 0.93}
    joined = join(tmp_path / "cascade", tmp_path / "first", tmp_path / "second", 0.75, metrics=alone, provenance=made)
    assert not [name for name in joined.files if name.endswith("README.md")]
    measured = alone | {"validation_accuracy": 0.92, "validation_first_share": 0.6, "retention": 0.98}
    with_metrics(tmp_path / "cascade", measured, lambda bundle: card(bundle, recipe()))
    text = (tmp_path / "cascade" / "README.md").read_text(encoding="utf-8")
    for words in (
        "Two students of `someone/teacher@abc`",
        "a probability of 0.7500 or more, the second the rest.",
        '| first student | kind "conv", layers 1 |',
        '| second student | kind "layers", layers 2 |',
        f"| first bundle, SHA-256 | `{64 * 'f'}` |",
        "### First\n\n1. fold\n2. export\n",
        "### Second\n\n1. prune: sparsity 0.1",
        "| accuracy | 0.9200 |",
        "| accuracy of the first alone | 0.8100 |",
        "| rows that the first answers | 60.00% |",
        "| share of the teacher's accuracy | 98.00% |",
        "tags: [slimcart, distillation, cascade, fold, export, prune, quantize]",
        "Needs onnxruntime; no torch",
    ):
        assert words in text
    assert "0.9410" not in text and "1.23" not in text  # the figures of its models


def test_a_card_of_a_bundle_that_was_not_measured_says_so(tmp_path: Path):
    text = card(write_tiny_bundle(tmp_path / "bundle"), recipe())
    assert "Not measured." in text and "accuracy |" not in text


def test_the_student_of_a_card_is_the_bundles_and_not_the_recipes(bundle: Bundle, tmp_path: Path):
    other = recipe(student={"layers": 5})
    assert card(bundle, other) == card(bundle, recipe())
    assert "| student |" not in card(write_tiny_bundle(tmp_path / "older"), other)


def test_many_labels_and_long_facts_are_cut_short(tmp_path: Path):
    long = ORIGIN["facts"] | {"prune": {f"layer {number}": 0.123456 for number in range(1000)}}
    labels = [f"label {number}" for number in range(150)]
    bundle = write_tiny_bundle(tmp_path / "bundle", labels=labels, provenance={**ORIGIN, "facts": long})
    text = card(bundle, recipe())
    assert "`label 99` and 50 more" in text and "label 100" not in text
    assert "stands in bundle.json" in text and "layer 7" not in text
    assert "2 of 9 layers stay in float: layer.0.dense, head" in text


@pytest.mark.parametrize(("attributes", "reads"), [(False, "a text"), (True, "attributes")])
def test_a_card_of_a_decoder_speaks_of_what_it_writes_and_of_no_labels(attributes: bool, reads: str):
    measured = {"validation_bleu": 39.77, "mix_p50_ms": 8, "mix_p95_ms": 9.5, "mix_p99_ms": 10, "mix_calls": 50}
    measured["mix_mean_ms"] = 8.25
    bundle = decoder_description(max_length=64, attributes=attributes, metrics=measured)
    text = card(bundle, recipe())
    assert f"Writes a text that follows from {reads}." in text and "have 64 tokens together" in text
    assert "| a row as it comes | 50 | 8.00 | 9.50 | 10.00 | 8.25 |" in text and "32 tokens" not in text
    assert "| bleu | 39.7700" in text and "pipeline_tag: text-generation" in text
    assert not [word for word in ("label", "Label", "classes", "score") if word in text]


def test_a_card_is_a_file_of_the_bundle(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", provenance=ORIGIN)
    with_metrics(tmp_path / "bundle", METRICS, lambda bundle: card(bundle, recipe()))
    text = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "README.md" in read_bundle(tmp_path / "bundle").files
    assert "| accuracy | 0.9410" in text


def test_a_card_of_replies_says_from_which_probability_on_they_are_given(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", provenance=ORIGIN)
    replies = Replies(Templates(fields=[], templates={LABELS[0]: ["Yes."]}), 0.75)
    with_replies(tmp_path / "bundle", tmp_path / "reply", replies, {})
    text = card(with_metrics(tmp_path / "reply", METRICS), recipe())
    assert "a probability of 0.7500 or more is answered with the reply of that class" in text
    assert "A student of `someone/teacher@abc`" in text
