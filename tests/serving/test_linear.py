from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import BundleError, read_description, write_bundle
from serving.cascade import join
from serving.runtime import load_bundle
from serving.runtimes.linear import open_model, strings
from tests.tiny.bundles import LABELS, tokenizer, write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["order", "where"]
PAIRS = ["where order"]
CHARACTERS = [" o", "or"]


def write_linear_bundle(folder: Path, rows_GK: np.ndarray | None = None, **fields: object) -> Path:
    """Five grams, whose idf is their place from 1 on, and of which each adds to the first class its place."""
    place_G = np.arange(1, 6, dtype=np.float32)
    given = np.stack([place_G, place_G, np.zeros(5), np.zeros(5)], axis=1)
    rows_GK = np.concatenate([given, [[0, 0, 0.5, 0]]]).astype(np.float32) if rows_GK is None else rows_GK

    def fill(aside: Path) -> None:
        vocabulary = {word: index for index, word in enumerate([*WORDS, "[UNK]"])}
        written = json.loads(tokenizer(False).to_str())
        written["model"]["vocab"], written["post_processor"] = vocabulary, None
        (aside / "tokenizer.json").write_text(json.dumps(written))
        (aside / "vocabulary.json").write_text(json.dumps({"word_pairs": PAIRS, "characters": CHARACTERS}))
        np.save(aside / "model.npy", rows_GK, allow_pickle=False)

    given_fields = {"name": "tiny", "task": "classify", "labels": LABELS, "runtime": "linear", "model": "model.npy"}
    write_bundle(folder, {**given_fields, "inputs": [], "max_length": 50, **fields}, fill)
    return folder


def test_words_and_characters_are_vectors_of_length_1_each(tmp_path: Path):
    classifier = load_bundle(write_linear_bundle(tmp_path / "linear"))
    words, characters = np.array([1, 2, 3]), np.array([2 * 4, 2 * 5])  # "order" twice, "where order" once
    words[0] *= 2
    by_words = (words * [1, 2, 3]).sum() / np.sqrt((words**2).sum())
    by_characters = (characters * [4, 5]).sum() / np.sqrt((characters**2).sum())
    logits_NC = classifier.logits(["Where ORDER, order?", "nothing known", ""])
    np.testing.assert_allclose(logits_NC[0], [by_words + by_characters, 0.5, 0], rtol=1e-5)
    np.testing.assert_allclose(logits_NC[1:], [[0, 0.5, 0]] * 2)


def test_strings_of_a_word_have_the_spaces_around_it():
    assert list(strings(["ab"], 3)) == [*" ab ", " a", "ab", "b ", " ab", "ab "]
    assert list(strings(["x"], 9)) == [*" x ", " x", "x ", " x "]


def test_words_beyond_the_longest_text_are_cut(tmp_path: Path):
    classifier = load_bundle(write_linear_bundle(tmp_path / "linear", max_length=2))
    np.testing.assert_allclose(classifier.logits(["aa bb order"]), [[0, 0.5, 0]])
    (read,) = classifier.readings(["aa bb order"])
    assert read.cut and read.tokens == 2 and read.unknown == 2


@pytest.mark.parametrize("wrong", [np.zeros((5, 4), np.float32), np.zeros((6, 3), np.float32), np.zeros((6, 4))])
def test_an_array_that_does_not_fit_its_vocabulary_is_refused(tmp_path: Path, wrong: np.ndarray):
    write_linear_bundle(tmp_path / "linear", wrong)
    with pytest.raises(BundleError, match=r"model\.npy: float\d\d .*5 grams and 3 labels need float32 \[6, 4\]"):
        load_bundle(tmp_path / "linear")


def test_an_array_of_objects_is_refused_unread(tmp_path: Path):
    folder = write_linear_bundle(tmp_path / "linear")
    np.save(folder / "model.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        open_model(folder, read_description(folder), 1)


def test_it_answers_first_in_a_cascade(tmp_path: Path):
    linear = write_linear_bundle(tmp_path / "linear")
    write_tiny_bundle(tmp_path / "large")
    join(tmp_path / "cascade", linear, tmp_path / "large", threshold=0.9)
    cascade = load_bundle(tmp_path / "cascade")
    texts = ["where order order", "please cancel it"]
    expected = [load_bundle(tmp_path / name).predict(texts)[place] for place, name in enumerate(("linear", "large"))]
    assert [each["label"] for each in cascade.predict(texts)] == [each["label"] for each in expected]


def test_it_answers_lines_without_scikit_learn_torch_and_onnxruntime(tmp_path: Path):
    folder = write_linear_bundle(tmp_path / "linear")
    code = f"""
import sys
from serving.runtime import main
assert main([{str(folder)!r}]) == 0
assert not {{"sklearn", "torch", "onnxruntime", "scipy"}} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input="where order\n", cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["label"] == LABELS[0]
