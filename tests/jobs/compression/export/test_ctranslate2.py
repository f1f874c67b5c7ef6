"""Decoders in CTranslate2 against transformers, token for token."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from configs.folder import digest_file
from configs.schema.compression import QuantizeSpec
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.compression.export.ctranslate2 import export, quantize
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.tokenise import train_tokenizer
from jobs.measure.reference import load_decoder
from jobs.models.reference import write_reference
from jobs.tasks.generate.judging import token_accuracy
from serving.bundle import MANIFEST, Bundle, BundleError, read_bundle
from serving.generator import load_generator
from serving.runtime import load_bundle
from tests.tiny.models import POSITIONS, decoder
from tests.tiny.workplace import completed, workplace

TEXTS = ["red shoe", "a blue hat for you and me", "tea", "red hat", "shoe for me"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(TEXTS, 280)


def student(folder: Path, words: Tokenizer, kind: str, tied: bool = True) -> Path:
    """A decoder of random weights, as `jobs.distill` leaves one; its table has rows that no token uses."""
    words.save(str(folder / TOKENIZER))
    prepared = Prepared(folder, {"task": "generate", "labels": [], "max_length": POSITIONS, "pairs": False})
    model = decoder(kind, tied=tied, vocabulary=words.get_vocab_size() + 4, seed=3)
    write_reference(folder / "student", model, prepared, "tiny", {}, {})
    return folder / "student"


def bundle(student: Path, steps: list[dict[str, Any]], **export: Any) -> Bundle:
    """There are no rows to hold it to limits on."""
    without = {"export": {"parity": 0, **export}, "budget": {"min_retention": 0}}
    recipe = Recipe.model_validate({"name": "tiny", "task": "generate", "compression": steps, **without})
    return compress(recipe, student, student.parent / "bundle", {})


@pytest.fixture(scope="module")
def small(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in int8, with its student beside it."""
    folder = student(tmp_path_factory.mktemp("int8"), words, "llama")
    bundle(folder, [{"step": "export"}, {"step": "quantize"}])
    return folder.parent / "bundle"


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("gpt2", True), ("qwen2", False)])
def test_texts_are_those_of_transformers(words: Tokenizer, tmp_path: Path, kind: str, tied: bool):
    made = bundle(student(tmp_path, words, kind, tied), [{"step": "export"}])
    assert (made.task, made.runtime, made.model, made.precision) == ("generate", "ctranslate2", "model.bin", "f32")
    expected = load_decoder(tmp_path / "student").predict(TEXTS)
    assert len({each["text"] for each in expected}) == len(TEXTS)
    for tokens_per_batch in (1, 2048):
        generator = load_generator(tmp_path / "bundle", tokens_per_batch=tokens_per_batch)
        assert generator.predict(TEXTS) == expected


def test_int8_takes_a_quarter_of_the_bytes_of_the_layers_and_begins_as_the_model_does(small: Path, words: Tokenizer):
    whole, made = (read_bundle(folder) for folder in (small.parent / "student", small))
    table = 4 * 32 * (words.get_vocab_size() + 4)  # of float embeddings, which the output layer shares
    layers = whole.files["model.safetensors"].size - table
    assert made.files["model.bin"].size < table + 0.4 * layers
    expected = [each["text"] for each in load_decoder(small.parent / "student").predict(TEXTS)]
    found = [each["text"] for each in load_generator(small).predict(TEXTS)]
    assert sum(a[:2] == b[:2] for a, b in zip(found, expected, strict=True)) >= 4


def test_tokens_in_int8_take_a_quarter_of_the_table_once_where_it_is_tied(
    tmp_path: Path, small: Path, words: Tokenizer
):
    steps = [{"step": "export"}, {"step": "quantize", "tokens": True, "guard": False}]
    made = bundle(student(tmp_path, words, "llama", tied=True), steps)
    rows = words.get_vocab_size() + 4
    saved = read_bundle(small).files["model.bin"].size - made.files["model.bin"].size
    assert saved == pytest.approx(3 * 32 * rows - 4 * rows, rel=0.1)  # a scale for each row
    expected = [each["text"] for each in load_decoder(tmp_path / "student").predict(TEXTS)]
    found = [each["text"] for each in load_generator(tmp_path / "bundle").predict(TEXTS)]
    assert sum(a[:2] == b[:2] for a, b in zip(found, expected, strict=True)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("guard", [True, False])
def test_the_layer_that_8_bits_ruin_stays_in_float(tmp_path: Path, guard: bool):
    """One of its inputs is tiny and has weights so large that the others of a row round to zero beside them."""
    model, far = decoder("llama"), 1e5
    lm: Any = model.lm
    attention = lm.model.layers[1].self_attn
    with torch.no_grad():
        attention.o_proj.weight *= 30
        attention.v_proj.weight[0] /= far
        attention.o_proj.weight[:, 0] *= far
    rows = completed(model, 40)
    place = workplace(tmp_path, model, rows, rows, task="generate", compression=[{"step": "export"}])
    whole, made = tmp_path / "0", tmp_path / "1"
    export(model, whole, place)
    assert token_accuracy(whole, rows, 40) > 0.99
    spec = QuantizeSpec(step="quantize", max_loss=0.03, guard=guard)
    quantize(whole, spec, made, place)
    facts = place.facts["quantize"]
    assert (token_accuracy(made, rows, 40) >= 0.96) == guard
    assert facts == {"guard": "off"} or facts["in_float"] == ["decoder/layer_1/self_attention/linear_1"]
    assert (facts == {"guard": "off"}) != guard


def test_a_file_that_is_cut_or_has_a_flipped_bit_is_refused_by_name(small: Path):
    for name in ("model.bin", "config.json", "vocabulary.json"):
        whole = (small / name).read_bytes()
        for damaged in (whole[:-1], whole[:9] + bytes([whole[9] ^ 4]) + whole[10:]):
            (small / name).write_bytes(damaged)
            with pytest.raises(BundleError, match=name):
                load_generator(small)
        (small / name).write_bytes(whole)
    load_generator(small)


@pytest.mark.parametrize("content", [pickle.dumps({"weights": [1.0]}, 0), b"\x06\x00\x00\x00nothing more"])
def test_a_model_that_is_a_pickle_or_nothing_is_refused_though_its_digest_is_right(small: Path, content: bytes):
    path, manifest = small / "model.bin", json.loads((small / MANIFEST).read_text())
    whole, stated = path.read_bytes(), manifest["files"]["model.bin"]
    path.write_bytes(content)
    manifest["files"]["model.bin"] = {"bytes": len(content), "sha256": digest_file(path)}
    (small / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"model\.bin: ") as refused:
        load_generator(small)
    assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    manifest["files"]["model.bin"] = stated
    (small / MANIFEST).write_text(json.dumps(manifest))


def test_a_decoder_is_not_taken_for_a_classifier(small: Path):
    with pytest.raises(BundleError, match="a bundle for task 'generate'; one for 'classify' is needed"):
        load_bundle(small)
