from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import LATER, MANIFEST, TEMPLATES, BundleError, read_bundle, with_metrics
from serving.cascade import join
from serving.inputs import InputError
from serving.reply import (
    NO_TEMPLATE,
    UNSURE,
    Replies,
    Templates,
    fill,
    load_reply,
    missing,
    names,
    values_of,
    with_replies,
)
from serving.runtime import load_bundle
from tests.tiny.bundles import LABELS, WORDS, write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [*WORDS[4:], "where is my order", "refund please now", "cancel it"]
OWN = {
    "track": ["Order {{order}} of {{ Site }} is on its way.", "It is on its way, says {{Site}}."],
    "refund": ["Yes."],
}


def templates(**classes: list[str]) -> Templates:
    return Templates(fields=["order"], templates=classes or OWN)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reply") / "classifier"
    write_tiny_bundle(folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    with_replies(source, tmp_path / "reply", Replies(templates(), 0.5), {"run_id": "1"})
    return tmp_path / "reply"


def replies_to(label: str, score: float = 0.9, **values: str) -> Any:
    return Replies(templates(), 0.5).reply({"label": label, "score": score}, values)


def test_placeholders_are_found_with_and_without_spaces_each_once():
    assert names("{{ a }} and {{b c}} and {{a}}, {d}") == ["a", "b c"]


def test_a_value_is_put_in_as_it_is():
    values = {"a": "{{b}} \\1 {{a}}", "b": "x"}
    assert fill("{{a}}|{{ b }}|{{a}}", values) == "{{b}} \\1 {{a}}|x|{{b}} \\1 {{a}}"


def test_the_first_template_that_can_be_filled_is_the_reply():
    assert replies_to("track", order="7", Site="shop")["text"] == "Order 7 of shop is on its way."
    assert replies_to("track", Site="shop")["text"] == "It is on its way, says shop."
    assert replies_to("refund")["text"] == "Yes."


@pytest.mark.parametrize(
    ("label", "score", "reason"),
    [
        ("track", 0.9, "the placeholder 'Site' has no value"),
        ("cancel", 0.9, NO_TEMPLATE),
        ("refund", 0.49, UNSURE),
    ],
)
def test_what_cannot_be_answered_is_handed_over_with_the_reason(label: str, score: float, reason: str):
    found = replies_to(label, score)
    assert found == {"text": "", "intent": label, "score": score, "handover": True, "reason": reason}


def test_what_is_as_certain_as_the_threshold_is_answered():
    assert replies_to("refund", 0.5) == {
        "text": "Yes.",
        "intent": "refund",
        "score": 0.5,
        "handover": False,
        "reason": None,
    }


def test_values_are_texts_and_numbers_and_what_is_empty_is_not_given():
    assert values_of({"a": 4.0, "b": " ", "c": None, "d": 12, "e": "x "}) == {"a": "4", "d": "12", "e": "x "}
    assert missing("{{b}}", values_of({"b": ""})) == "b"
    with pytest.raises(ValueError, match="longer than 1000 characters"):
        values_of({"a": "x" * 1001})


def test_a_bundle_of_replies_is_its_classifier_with_templates_in_format_2(folder: Path, source: Path):
    bundle, old = read_bundle(folder), read_bundle(source)
    assert (bundle.format_version, bundle.kind, bundle.reply and bundle.reply.threshold) == (2, "reply", 0.5)
    assert bundle.files == {**old.files, TEMPLATES: bundle.files[TEMPLATES]}
    assert bundle.provenance["run_id"] == "1" and not bundle.metrics
    assert with_metrics(folder, {"accuracy": 0.5}).metrics == {"accuracy": 0.5}
    assert load_reply(folder).replies.templates == templates()
    assert load_bundle(folder).predict(TEXTS) == load_bundle(source).predict(TEXTS)


def test_a_bundle_without_a_kind_stays_in_format_1(source: Path):
    manifest = json.loads((source / MANIFEST).read_text())
    assert manifest["format_version"] == 1 and not set(LATER) & manifest.keys()


def test_replies_are_the_classifiers_labels_made_texts(folder: Path, source: Path):
    loaded, fields = load_reply(folder), {"order": "7", "Site": "s"}
    found = loaded.predict([{"input": text, "fields": fields} for text in TEXTS])
    for reply, said in zip(found, load_bundle(source).predict(TEXTS), strict=True):
        assert (reply["intent"], reply["score"]) == (said["label"], said["score"])
        assert reply["handover"] == (said["score"] < 0.5 or said["label"] == "cancel")
        assert bool(reply["text"]) != reply["handover"]
    assert {each["handover"] for each in found} == {True, False}
    assert [each["intent"] for each in loaded.predict(TEXTS)] == [each["intent"] for each in found]


def test_a_cascade_can_have_replies(source: Path, tmp_path: Path):
    write_tiny_bundle(tmp_path / "second", seed=1)
    join(tmp_path / "cascade", source, tmp_path / "second", 0.6)
    with_replies(tmp_path / "cascade", tmp_path / "reply", Replies(templates(), 0.0), {})
    said = load_bundle(tmp_path / "cascade").predict(TEXTS)
    assert [each["intent"] for each in load_reply(tmp_path / "reply").predict(TEXTS)] == [
        each["label"] for each in said
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"input": "a", "fields": []}, "input 0: fields must be an object of values, each a text or a number"),
        ({"input": "a", "fields": {"secret": True}}, "each a text or a number"),
        ({"input": "a", "fields": {"secret": "x" * 1001}}, "input 0: a value in fields is longer than 1000 characters"),
        ({"input": "secret", "values": {}}, "input 0 is not a text"),
    ],
)
def test_a_wrong_input_is_refused_and_not_repeated(folder: Path, given: Any, reason: str):
    with pytest.raises(InputError, match=reason) as refused:
        load_reply(folder).predict([given])
    assert "secret" not in str(refused.value)


def changed(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format_version": 1}, "format version 1 with kind 'reply'"),
        ({"reply": None}, "kind 'reply' without the field reply"),
        ({"kind": "heads"}, "kind: "),
        ({"reply": {"threshold": 2}}, "reply.threshold"),
        ({"runtime": "torch"}, "an exported classifier says which reply"),
    ],
)
def test_a_manifest_whose_kind_does_not_fit_is_refused(folder: Path, fields: dict[str, Any], reason: str):
    changed(folder, **fields)
    with pytest.raises(BundleError, match=reason):
        read_bundle(folder)


def test_damaged_and_foreign_templates_are_refused_by_name(folder: Path, source: Path, tmp_path: Path):
    (folder / TEMPLATES).write_text("{}")
    with pytest.raises(BundleError, match=r"templates\.json: 2 bytes, the manifest says"):
        load_reply(folder)
    with_replies(source, tmp_path / "other", Replies(templates(other=["x"]), 0.5), {})
    with pytest.raises(BundleError, match=r"templates\.json: 1 of its classes are no labels of the bundle"):
        load_reply(tmp_path / "other")
    with pytest.raises(BundleError, match="a bundle without replies; python -m jobs"):
        load_reply(source)


def test_a_bundle_of_replies_is_no_part_of_a_cascade(folder: Path, source: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="a reply; a cascade joins two exported classifiers"):
        join(tmp_path / "cascade", folder, source, 0.5)


def test_the_command_replies_to_lines(folder: Path):
    lines = ["where is my order", json.dumps({"input": "where is my order", "fields": {"order": 7, "Site": "{{x}}"}})]
    command = [sys.executable, "-m", "serving.runtime", str(folder)]
    done = subprocess.run(
        command, input="\n".join(lines).encode(), capture_output=True, cwd=ROOT, timeout=60, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == load_reply(folder).predict([lines[0], json.loads(lines[1])])
    assert found[0]["intent"] in LABELS
    done = subprocess.run([*command, "--scores"], input=b"", capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    done = subprocess.run(command, input=b"{secret", capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert done.stderr == b"line 1: not JSON; write an object with input and fields\n"
