from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.source import rows
from jobs.data.spec import DataSpec
from jobs.measure.baselines import embedding_table, fit_static, fit_tfidf
from jobs.measure.contenders import Answer, Contender, Fitted, load
from jobs.models.encoder import load_tokenizer, pretrained
from jobs.models.reference import write_reference
from jobs.models.spec import TeacherSpec
from serving.inputs import Input
from tests.serving.tiny import write_tiny_bundle


def data(folder: Path, **fields: str) -> DataSpec:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    return DataSpec.model_validate(files | fields)


def test_tfidf_is_scikit_learns_pipeline(shop_folder: Path):
    spec = data(shop_folder)
    train, validation = list(rows(spec, "train")), list(rows(spec, "validation"))
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC())
    pipeline.fit([row.text for row in train], [row.label for row in train])
    texts = [row.text for row in validation]
    predicted = load(Contender(name="tfidf_svm", kind="tfidf"), spec, threads=1)(texts)
    assert predicted == [Answer(label) for label in pipeline.predict(texts).tolist()]
    assert all(type(each.text) is str for each in predicted)


def test_tfidf_reads_both_texts_of_a_pair(tmp_path: Path):
    """The first text says nothing about the label; the second says all."""
    for split in ("train", "validation"):
        with (tmp_path / f"{split}.jsonl").open("w") as file:
            for index in range(20):
                label = ["cold", "hot"][index % 2]
                word = {"cold": "ice", "hot": "fire"}[label]
                file.write(json.dumps({"query": "what is it", "title": f"some {word}", "label": label}) + "\n")
    predict = fit_tfidf(data(tmp_path, text="query", text_pair="title"))
    asked: list[Input] = [("what is it", "much fire"), ("what is it", "much ice")]
    assert [each.text for each in predict(asked)] == ["hot", "cold"]


def test_the_nearest_row_answers_with_its_own_text(tmp_path: Path):
    rows = [{"text": {"name": name, "type": "tv"}, "label": f"{name} is a tv"} for name in ("Apollo", "Hermes")]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict = load(Contender(name="n", kind="nearest"), DataSpec(train=str(file)), 1)
    answers = predict(["name: Hermes; type: radio", "name: Apollo; type: tv"])
    assert answers == [Answer("Hermes is a tv"), Answer("Apollo is a tv")]
    assert isinstance(predict, Fitted) and predict.bytes > sum(len(str(row["label"])) for row in rows)


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference bundle whose tokenizer pads and cuts, as a saved one may."""
    folder = tmp_path_factory.mktemp("static")
    tokenizer = load_tokenizer(str(tiny_teacher))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / TOKENIZER))
    model = pretrained(TeacherSpec(model=str(tiny_teacher)), ["a", "b"])
    prepared = Prepared(folder, {"labels": ["a", "b"], "max_length": 8, "pairs": False})
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


def test_static_is_a_logistic_regression_of_mean_token_embeddings(
    shop_folder: Path, teacher: Path, vectors: dict[str, np.ndarray]
):
    spec = data(shop_folder)
    train, texts = list(rows(spec, "train")), [row.text for row in rows(spec, "validation")]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.stack([vectors[row.text] for row in train]), [row.label for row in train])
    expected_NC = model.predict_proba(np.stack([vectors[text] for text in texts]))
    answers = load(Contender(name="static", kind="static", folder=str(teacher)), spec, 1)(texts)
    assert [each.text for each in answers] == model.classes_[expected_NC.argmax(1)].tolist()
    assert [each.score for each in answers] == pytest.approx(expected_NC.max(1).tolist(), abs=1e-3)


def test_static_compares_the_texts_of_a_pair(tmp_path: Path, teacher: Path):
    """Only whether both texts say the same tells the label."""
    words = ["order", "refund", "cancel", "delivery", "card", "account"]
    for split in ("train", "validation"):
        pairs = [(a, b) for a in words for b in words for _ in range(6 if a == b else 1)]
        lines = [{"query": a, "title": b, "label": "same" if a == b else "other"} for a, b in pairs]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    predict = fit_static(data(tmp_path, text="query", text_pair="title"), teacher)
    asked: list[Input] = [("order", "order"), ("order", "refund"), ("card", "card"), ("cancel", "account")]
    assert [each.text for each in predict(asked)] == ["same", "other", "same", "other"]


def test_a_text_without_tokens_is_answered(shop_folder: Path, teacher: Path):
    (answer,) = fit_static(data(shop_folder), teacher)([" "])
    assert answer.score is not None and 0 < answer.score <= 1


def test_sizes_count_words_tables_and_weights(shop_folder: Path, teacher: Path):
    spec = data(shop_folder)
    static, tfidf = fit_static(spec, teacher), fit_tfidf(spec)
    assert isinstance(static, Fitted)
    classes, width = 5, 32
    tokens = load_tokenizer(str(teacher)).get_vocab_size()
    numbers = 4 * tokens * width  # the table; the rest is small
    assert numbers < static.bytes < numbers + 8 * (2 * width + classes * (width + 1)) + 200_000
    texts = [row.text for row in rows(spec, "train")]
    grams = TfidfVectorizer(ngram_range=(1, 2)).fit(texts).vocabulary_
    assert tfidf.bytes == sum(len(each.encode()) for each in grams) + 8 * (len(grams) * (1 + classes) + classes)


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
