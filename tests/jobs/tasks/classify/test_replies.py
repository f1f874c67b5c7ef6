from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.evaluation import evaluation_key, kinds_test
from jobs.measure.answers import Answer
from jobs.tasks.classify import replies
from jobs.tasks.classify.replies import Made, Replying, Told, judged, make, of_test_rows, smoke, told
from serving.bundle import read_bundle
from serving.reply import Replies, Templates, load_reply, with_replies
from serving.runtime import load_bundle
from tests.tiny.bundles import LABELS, WORDS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder

TEXTS = [f"{first} {second}" for first in WORDS[4:] for second in WORDS[4:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and rows that it is nearly always right about, each with a reply."""
    folder = tmp_path_factory.mktemp("replies")
    write_tiny_bundle(folder / "classifier")
    random = np.random.default_rng(0)
    said = load_bundle(folder / "classifier").predict(TEXTS)
    for split in ("train", "validation", "test"):
        with (folder / f"{split}.jsonl").open("w") as file:
            for index, (text, each) in enumerate(zip(TEXTS, said, strict=True)):
                wrong = each["score"] < 0.6 and random.random() < 0.7
                label = LABELS[(LABELS.index(each["label"]) + wrong) % 3]
                order = f"A-{index}" if index % 4 else ""
                reply = f"{label.title()} {order or 'it'} at {{{{Site}}}}, please."
                row = {"text": text, "label": label, "response": reply, "order": order}
                file.write(json.dumps({k: v for k, v in row.items() if split != "test" or k != "response"}) + "\n")
    return folder


def recipe(folder: Path, **sections: Any) -> Recipe:
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    reply = {"column": "response", "fields": ["order"], "min_right": 0.95} | sections.pop("reply", {})
    return Recipe.model_validate({"name": "x", "output": str(folder / "out"), "data": data, "reply": reply, **sections})


def made(folder: Path, decoder: Path | None = None, **sections: Any) -> Made:
    asked = recipe(folder, **sections)
    classifier = load_bundle(folder / "classifier")
    return make(asked, classifier, told(asked, "train"), told(asked, "validation"), decoder)


def test_rows_come_with_their_reply_and_the_values_of_their_message(folder: Path):
    second = told(recipe(folder), "train")[1]
    assert (second.row.text, second.values) == (TEXTS[1], {"order": "A-1"})
    assert second.reply.endswith("A-1 at {{Site}}, please.")
    with pytest.raises(UsageError, match=r"reply\.column: 'answer'|column 'answer'"):
        told(recipe(folder, reply={"column": "answer"}), "train")


def test_the_threshold_is_the_lowest_that_is_right_often_enough_on_validation_rows(folder: Path):
    found, _, figures = made(folder, budget={"margin": 0})
    assert 0 < found.threshold < 1 and figures["open_placeholders"] == 0
    assert figures["answered_right"] >= 0.95 and 0 < figures["handed_over"] < 1
    lower = Replies(found.templates, found.threshold - 0.1)
    rows = told(recipe(folder), "validation")
    answers = [Answer(each["label"], each["score"]) for each in load_bundle(folder / "classifier").predict(TEXTS)]
    assert judged(lower, answers, [each.row.label for each in rows], rows)["answered_right"] < 0.95
    assert made(folder, budget={"margin": 1}).replies.threshold > found.threshold


def test_what_no_threshold_reaches_is_refused_in_one_line(folder: Path):
    with pytest.raises(JobError, match=r"reply\.min_right: 1: at no threshold") as refused:
        made(folder, reply={"min_right": 1.0})
    assert "\n" not in str(refused.value)


def test_templates_are_measured_on_validation_replies(folder: Path):
    found, _, figures = made(folder)
    assert found.templates.templates == {
        label: [
            f"{label.title()} {{{{order}}}} at {{{{Site}}}}, please.",
            f"{label.title()} it at {{{{Site}}}}, please.",
        ]
        for label in LABELS
    }
    assert figures["reply_rouge_l"] == figures["reply_template_rouge_l"] == pytest.approx(100)
    assert figures["reply_bleu"] == pytest.approx(100)


def test_of_two_sources_the_one_that_is_better_on_validation_rows_is_taken_and_both_are_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    script = b"ask the shop, " * 4
    write_tiny_decoder(tmp_path / "decoder", script, max_length=80)
    caplog.set_level("INFO", "jobs.tasks.classify.replies")
    both = {"source": "auto", "decoder": str(tmp_path / "decoder")}
    found, source, figures = made(folder, tmp_path / "decoder", reply=both)
    assert source == "template"
    assert found.templates == made(folder).replies.templates
    assert figures["reply_decoder_rouge_l"] < figures["reply_template_rouge_l"] == figures["reply_rouge_l"]
    assert "source decoder: " in caplog.text and ": not chosen" in caplog.text
    written, source, figures = made(folder, tmp_path / "decoder", reply=both | {"source": "decoder"})
    assert source == "decoder"
    for label in LABELS:
        (text,) = written.templates.templates[label]
        assert text in script.decode()
    assert figures["reply_rouge_l"] == figures["reply_decoder_rouge_l"] and "reply_template_rouge_l" not in figures


def test_replies_of_which_none_can_be_a_template_are_refused(folder: Path):
    asked, classifier = recipe(folder), load_bundle(folder / "classifier")
    rows = [each._replace(reply="{x}") for each in told(asked, "train")]
    with pytest.raises(JobError, match=r"reply\.column: 'response': no reply can be a template"):
        make(asked, classifier, rows, told(asked, "validation"), None)


def test_what_is_handed_over_counts_missing_values_classes_without_a_template_and_uncertain_ones():
    known = Templates(fields=["order"], templates={"track": ["{{order}} of {{Site}}"], "refund": ["Yes."]})
    row = told_row("track", order="")
    asked = [row, told_row("track", order="1"), told_row("refund"), told_row("refund"), told_row("cancel")]
    answers = [Answer("track", 0.9), Answer("track", 0.9), Answer("refund", 0.4), Answer("refund", 0.9)]
    figures = judged(
        Replies(known, 0.5), [*answers, Answer("cancel", 1.0)], ["track", "refund", *["refund"] * 3], asked
    )
    assert figures == {"handed_over": 0.6, "answered_right": 0.5, "open_placeholders": 0.0}


def told_row(label: str, **values: str) -> Told:
    return Told(replies.Row("a", None, label), "", values)


def test_a_bundle_of_replies_is_measured_by_its_classes_and_tested_on_rows_with_their_values(
    folder: Path, tmp_path: Path
):
    found, _, figures = made(folder)
    with_replies(folder / "classifier", tmp_path / "reply", found, {})
    answering = Replying(load_reply(tmp_path / "reply"))
    answers = answering(TEXTS)
    assert [each.text for each in answers] == [
        each["label"] for each in load_bundle(folder / "classifier").predict(TEXTS)
    ]
    assert answering.figures(TEXTS) == {}
    measured, words = of_test_rows(recipe(folder), tmp_path / "reply").judge(answers)
    assert measured.keys() == {"handed_over", "answered_right", "open_placeholders"}
    assert abs(measured["handed_over"] - figures["handed_over"]) < 0.1
    assert f"Of {len(TEXTS)} test messages" in words and "less" not in words
    one_class = [each._replace(text=LABELS[0]) for each in answers]
    words = of_test_rows(recipe(folder), tmp_path / "reply").judge(one_class)[1]
    assert words.endswith("have the right class, less than reply.min_right=0.95.")
    smoke("models:/x/1", tmp_path / "reply", read_bundle(tmp_path / "reply"))


def test_an_evaluation_depends_on_the_values_that_replies_are_filled_with(folder: Path, tmp_path: Path):
    with_replies(folder / "classifier", tmp_path / "reply", made(folder)[0], {})
    bundle, lines = read_bundle(tmp_path / "reply"), (folder / "test.jsonl").read_text()
    (tmp_path / "test.jsonl").write_text(lines.replace("A-7", "A-8"))
    other = recipe(folder).data.model_copy(update={"test": str(tmp_path / "test.jsonl")})
    asked = [
        recipe(folder),
        recipe(folder).model_copy(update={"data": other}),
        recipe(folder, reply={"min_right": 0.5}),
    ]
    keys = [evaluation_key(each, [], "rows", kinds_test(each, tmp_path / "reply", bundle)) for each in asked]
    assert len(set(keys)) == 3
    again = kinds_test(asked[0], tmp_path / "reply", bundle)
    assert evaluation_key(asked[0], [], "rows", again) == keys[0]
    assert kinds_test(asked[0], folder / "classifier", read_bundle(folder / "classifier")) is None
