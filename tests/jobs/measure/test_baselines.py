from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.models import TeacherSpec
from configs.schema.recipe import Recipe
from configs.schema.runtimes import VOCABULARY
from configs.schema.tasks import TASKS
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.source import rows
from jobs.measure.answers import Answer, Fitted, input_of
from jobs.measure.baselines import Source, check_possible, embedding_table, find_or_make, made, possible
from jobs.measure.contenders import Contender, load
from jobs.measure.grams import WORDS
from jobs.models.encoder import pretrained
from jobs.models.loading import load_tokenizer
from jobs.models.reference import write_reference
from jobs.tasks.classify import baselines
from serving import units
from serving.bundle import bundle_bytes, bundle_digest, read_bundle
from serving.classifier import Classifier
from serving.inputs import joined
from serving.runtime import load_bundle
from serving.runtimes.linear import CHARACTERS
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.scripts import EVERY, PARTED

NEAREST = TASKS["generate"].baselines["nearest"].make


@pytest.fixture(autouse=True)
def locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone else may be measuring on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def recipe(folder: Path, output: Path, **fields: Any) -> Recipe:
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")} | fields
    return Recipe.model_validate({"name": "tiny", "output": str(output), "data": data})


def write_rows(folder: Path, found: Sequence[dict[str, str]]) -> None:
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in found))


def baseline(name: str, asked: Recipe, teacher: Path | None = None) -> Classifier:
    return load_bundle(find_or_make(asked, name, Source(asked.data, asked.judged_by, teacher)))


ODD = ["", "a", "?!", "unheard-of wörds only", "WHERE is\tmy  order   now, where?", "İstanbul ORDER", "x" * 300]


@pytest.mark.parametrize("strings", [True, False])
def test_tfidf_answers_as_scikit_learn_does(
    shop_folder: Path, tmp_path: Path, strings: bool, monkeypatch: pytest.MonkeyPatch
):
    """The runtime counts grams itself, in float32; words and characters are each a vector of length 1."""
    monkeypatch.setattr(baselines, "_value", lambda fitted, _: strings == all(fitted.parts))
    asked = recipe(shop_folder, tmp_path)
    train, validation = (list(rows(asked.data, split)) for split in ("train", "validation"))
    texts = [row.text for row in train]
    grams = [
        TfidfVectorizer(ngram_range=(1, 2), min_df=2).fit(texts),
        *([TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2).fit(texts)] if strings else []),
    ]

    def features(texts: Sequence[str]) -> Any:
        return hstack([each.transform(texts) for each in grams]).tocsr()

    model = LinearSVC(random_state=0).fit(features(texts), [row.label for row in train])
    classifier = baseline("tfidf", asked)
    questions = [*(row.text for row in validation), *ODD]
    logits_NC = classifier.logits(questions) * classifier.bundle.temperature
    np.testing.assert_allclose(logits_NC, model.decision_function(features(questions)), atol=1e-4)
    assert classifier.bundle.labels == model.classes_.tolist()
    assert [each["label"] for each in classifier.predict(questions)] == list(model.predict(features(questions)))
    assert classifier.bundle.runtime == "linear" and classifier.bundle.provenance["baseline"] == "tfidf"


@pytest.mark.parametrize(
    ("asked", "strings"), [("goody", True), ("badly " * 20 + "the " * 4 + "good", False), ("good", True)]
)
def test_strings_of_characters_are_left_out_where_words_alone_are_better(tmp_path: Path, asked: str, strings: bool):
    """What is asked is good in each case; its strings say so, or are those of bad, or say what its words say."""
    write_rows(tmp_path, [{"text": f"{word} the", "label": word} for word in ("good", "bad") for _ in range(9)])
    (tmp_path / "validation.jsonl").write_text(json.dumps({"text": asked, "label": "good"}) + "\n")
    told = recipe(tmp_path, tmp_path / "out")
    folder = find_or_make(told, "tfidf", Source(told.data, told.judged_by, None))
    assert bool(json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))[CHARACTERS]) == strings


def test_of_two_classes_the_second_is_scored_against_the_first(shop_folder: Path, tmp_path: Path):
    found = [
        {"text": f"{word} {n % 7}", "label": label} for n in range(20) for word, label in (("ice", "a"), ("hot", "b"))
    ]
    write_rows(tmp_path, found)
    classifier = baseline("tfidf", recipe(tmp_path, tmp_path / "out"))
    assert [each["label"] for each in classifier.predict(["some ice", "so hot"])] == ["a", "b"]
    assert not classifier.logits(["hot"])[0, 0] and classifier.logits(["hot"])[0, 1] > 0


def test_tfidf_reads_both_texts_of_a_pair(tmp_path: Path):
    """The first text says nothing about the label; the second says all."""
    words = {"cold": "ice", "hot": "fire"}
    pairs = [("what is it", f"some {words[label]}", label) for label in ("cold", "hot") for _ in range(10)]
    write_rows(tmp_path, [{"query": query, "title": title, "label": label} for query, title, label in pairs])
    classifier = baseline("tfidf", recipe(tmp_path, tmp_path / "out", text="query", text_pair="title"))
    answers = classifier.predict([("what is it", "much fire"), ("what is it", "much ice")])
    assert [each["label"] for each in answers] == ["hot", "cold"]


@pytest.mark.parametrize("script", EVERY)
def test_tfidf_reads_the_units_of_every_script(tmp_path: Path, script: str):
    """What is asked is a message's beginning or end, which no training row is; the bundle holds no message whole."""
    between = " " if script in PARTED else ""
    halves = [(parts[: len(parts) // 2], parts[len(parts) // 2 :]) for parts in map(units.terms, EVERY[script])]
    found = [
        {"text": between.join([str(number), *half]), "label": f"topic {topic}"}
        for number in range(3)
        for topic, both in enumerate(halves)
        for half in (both[0] + both[1], both[1] + both[0])
    ]
    write_rows(tmp_path, found)
    asked = recipe(tmp_path, tmp_path / "out")
    classifier = baseline("tfidf", asked)
    answers = classifier.predict([between.join(half) for both in halves for half in both])
    assert [each["label"] for each in answers] == ["topic 0", "topic 0", "topic 1", "topic 1"]
    texts = [joined(input_of(row)) for row in rows(asked.data, "train")]
    grams = WORDS["tokenizer"](units.lowered(texts[0]))
    (reading,) = classifier.readings(texts[:1])
    assert (reading.tokens, reading.unknown) == (len(grams), 0)
    longest = max(map(len, re.split(r"\s", " ".join(EVERY[script])))) if between else 6
    known = json.loads((tmp_path / "out/.work/baselines/tfidf/tokenizer.json").read_bytes())["model"]["vocab"]
    assert max(map(len, known.keys() - {"[UNK]"})) <= longest


def test_a_baseline_that_cannot_be_made_is_left_out_and_the_others_stand(
    shop_folder: Path, tmp_path: Path, teacher: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def fails(_: Source) -> None:
        raise ValueError("one class\nonly")

    monkeypatch.setattr(baselines, "make_tfidf", fails)
    found = made(recipe(shop_folder, tmp_path), ["tfidf", "static"], teacher)
    assert list(found) == ["static"]
    assert "the baseline tfidf is left out: one class only" in caplog.text


def test_a_baseline_is_made_once_and_again_where_rows_or_teacher_change(
    shop_folder: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, fits = recipe(shop_folder, tmp_path), []
    make = baselines.make_static
    monkeypatch.setattr(baselines, "make_static", lambda source: fits.append(1) or make(source))
    digests = [bundle_digest(made(asked, ["static"], teacher)["static"]) for _ in range(2)]
    assert len(fits) == 1 and digests[0] == digests[1]
    found = [{"text": row.text, "label": row.label} for row in rows(asked.data, "train")][:40]
    write_rows(tmp_path, found)
    made(recipe(tmp_path, tmp_path), ["static"], teacher)
    assert len(fits) == 2


def test_of_a_teacher_without_one_table_no_static_baseline_is_made(tmp_path: Path, teacher: Path):
    asked = recipe(tmp_path, tmp_path)
    assert possible(asked, None, attributes=False) == ["tfidf"]
    assert possible(asked, teacher, attributes=False) == ["tfidf", "static"]
    with pytest.raises(UsageError, match=r"^bundle: 'static': no teacher here has one table"):
        check_possible("static", None, False, "bundle")


def test_of_rows_without_attributes_no_template_is_made(tmp_path: Path):
    asked = Recipe.model_validate({"name": "x", "task": "generate"})
    assert possible(asked, None, attributes=True) == ["nearest", "template"]
    assert possible(asked, None, attributes=False) == ["nearest"]
    with pytest.raises(UsageError, match=r"^evaluation\.baselines: 'template': the rows .* have no attributes"):
        check_possible("template", None, False, "evaluation.baselines")


def test_the_nearest_row_answers_with_its_own_text(tmp_path: Path):
    rows = [{"text": {"name": name, "type": "tv"}, "label": f"{name} is a tv"} for name in ("Apollo", "Hermes")]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict = load(Contender(name="n", kind="fitted", fit=NEAREST), DataSpec(train=str(file)), 1)
    answers = predict(["name: Hermes; type: radio", "name: Apollo; type: tv"])
    assert answers == [Answer("Hermes is a tv"), Answer("Apollo is a tv")]
    assert isinstance(predict, Fitted) and predict.bytes > sum(len(str(row["label"])) for row in rows)


def test_the_nearest_row_of_prompts_without_words_is_found_by_characters(tmp_path: Path):
    write_rows(tmp_path, [{"text": text, "label": f"it is {text}"} for text in ("a b", "c d")])
    predict = load(Contender(name="n", kind="fitted", fit=NEAREST), DataSpec(train=str(tmp_path / "train.jsonl")), 1)
    answers = predict(["d c"])
    assert answers == [Answer("it is c d")]


def test_the_nearest_row_is_found_by_words_characters_and_signs_together(tmp_path: Path):
    """Prompts of one letter or one sign stand beside those that have words."""
    prompts = ["S", "M", "好", "差评", "😀", "где заказ", "मेरा पार्सल", "ดีมาก"]
    write_rows(tmp_path, [{"text": text, "label": f"it is {text}"} for text in prompts])
    predict = load(Contender(name="n", kind="fitted", fit=NEAREST), DataSpec(train=str(tmp_path / "train.jsonl")), 1)
    assert predict(prompts) == [Answer(f"it is {text}") for text in prompts]
    assert predict(["заказ мой", "很好"]) == [Answer("it is где заказ"), Answer("it is 好")]


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference bundle whose tokenizer pads and cuts, as a saved one may."""
    folder = tmp_path_factory.mktemp("static")
    tokenizer = load_tokenizer(str(tiny_teacher))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / TOKENIZER))
    model = pretrained(TeacherSpec(model=str(tiny_teacher)), ["a", "b"])
    prepared = Prepared(folder, {"labels": ["a", "b"], "max_length": 8, "pairs": False, "task": "classify"})
    write_reference(folder / "bundle", model, prepared, "tiny", {}, {})
    return folder / "bundle"


@pytest.fixture(scope="module")
def vectors(tiny_teacher: Path) -> dict[str, np.ndarray]:
    """The mean vector [H] of the tokens of a text, one by one in torch."""

    class Means(dict[str, np.ndarray]):
        def __missing__(self, text: str) -> np.ndarray:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            with torch.inference_mode():
                self[text] = table(torch.tensor(ids)).mean(0).numpy()
            return self[text]

    tokenizer = load_tokenizer(str(tiny_teacher))
    table = pretrained(TeacherSpec(model=str(tiny_teacher)), ["a", "b"]).encoder.get_input_embeddings()
    return Means()


@pytest.mark.parametrize("whole", [False, True])
def test_static_is_a_logistic_regression_of_mean_token_embeddings(
    whole: bool,
    shop_folder: Path,
    tmp_path: Path,
    teacher: Path,
    vectors: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
):
    """What the file holds of each token is what its vector adds to every class; of all tokens where that is better."""
    better = iter([0, int(whole)])
    monkeypatch.setattr(Source, "value", lambda source, said: next(better))
    asked = recipe(shop_folder, tmp_path)
    train, texts = list(rows(asked.data, "train")), [row.text for row in rows(asked.data, "validation")]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.stack([vectors[row.text] for row in train]), [row.label for row in train])
    tokenizer = load_tokenizer(str(teacher))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    used = {index for row in train for index in ids(row.text)}
    known = [text for text in texts if used.issuperset(ids(text))]  # what training never saw is cut smaller
    assert 0 < len(known) < len(texts)
    if whole:
        known = texts
    expected_NC = model.decision_function(np.stack([vectors[text] for text in known]))
    classifier = baseline("static", asked, teacher)
    logits_NC = classifier.logits(known) * classifier.bundle.temperature
    np.testing.assert_allclose(logits_NC, expected_NC, atol=1e-2, rtol=1e-3)
    assert [each["label"] for each in classifier.predict(known)] == model.predict(
        np.stack([vectors[text] for text in known])
    ).tolist()


def test_static_compares_the_texts_of_a_pair(tmp_path: Path, teacher: Path):
    """Only whether both texts say the same tells the label."""
    words = ["order", "refund", "cancel", "delivery", "card", "account"]
    pairs = [(a, b) for a in words for b in words for _ in range(6 if a == b else 1)]
    write_rows(tmp_path, [{"query": a, "title": b, "label": "same" if a == b else "other"} for a, b in pairs])
    classifier = baseline("static", recipe(tmp_path, tmp_path / "out", text="query", text_pair="title"), teacher)
    answers = classifier.predict([("order", "order"), ("order", "refund"), ("card", "card"), ("cancel", "account")])
    assert [each["label"] for each in answers] == ["same", "other", "same", "other"]
    assert classifier.predict([("order", ""), ("", "")])  # a text without tokens


def test_a_text_without_tokens_is_answered_by_the_intercepts(shop_folder: Path, tmp_path: Path, teacher: Path):
    classifier = baseline("static", recipe(shop_folder, tmp_path), teacher)
    alone_NC, among_NC = classifier.logits([" "]), classifier.logits([" ", "where is my order"])
    np.testing.assert_allclose(alone_NC[0], among_NC[0], atol=1e-6)


def test_a_bundle_holds_the_tokens_and_grams_that_training_rows_use(shop_folder: Path, tmp_path: Path, teacher: Path):
    found = made(recipe(shop_folder, tmp_path), ["tfidf", "static"], teacher)
    bundles = {name: read_bundle(folder) for name, folder in found.items()}
    tokens = load_tokenizer(str(teacher)).get_vocab_size()
    assert bundle_bytes(bundles["static"]) < 4 * tokens * 32 / 2  # of the teacher's table, of width 32
    files = {name: each.size for name, each in bundles["tfidf"].files.items()}
    grams = np.load(found["tfidf"] / "model.npy").shape[0] - 1
    assert files["model.npy"] == pytest.approx(4 * (grams + 1) * (1 + len(bundles["tfidf"].labels)), abs=200)
    for bundle in bundles.values():
        assert 0 < bundle.metrics["validation_accuracy_low"] <= bundle.metrics["validation_accuracy"]


def test_the_table_is_the_one_tensor_with_a_row_for_each_token(teacher: Path, tmp_path: Path):
    assert embedding_table(teacher) == "encoder.embeddings.word_embeddings.weight"
    for name in ("bundle.json", "model.safetensors"):
        (tmp_path / name).write_bytes((teacher / name).read_bytes())
    config = json.loads((teacher / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    assert embedding_table(tmp_path) is None


def test_an_exported_bundle_has_no_table_of_its_own(tmp_path: Path):
    write_tiny_bundle(tmp_path / "exported")
    assert embedding_table(tmp_path / "exported") is None
