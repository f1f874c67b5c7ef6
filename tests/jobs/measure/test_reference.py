from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from configs.schema.data import DataSpec
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.tokenise import train_tokenizer
from jobs.measure.contenders import Contender, load
from jobs.measure.reference import load_decoder
from jobs.models.decoder import Decoder
from jobs.models.reference import write_reference
from serving.inputs import prompt
from tests.tiny.models import POSITIONS, decoder

PROMPTS = ["red shoe", "a blue hat for you and me", "tea"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(PROMPTS, 280)


@pytest.fixture(scope="module")
def model(words: Tokenizer) -> Decoder:
    """Random, so that it writes long texts."""
    return decoder("llama", vocabulary=words.get_vocab_size(), seed=3)


@pytest.fixture(scope="module")
def bundle(words: Tokenizer, model: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    (folder / "prepared").mkdir()
    words.save(str(folder / "prepared" / TOKENIZER))
    prepared = Prepared(
        folder / "prepared", {"task": "generate", "labels": [], "max_length": POSITIONS, "pairs": False}
    )
    write_reference(folder / "bundle", model, prepared, "tiny", {}, {})
    return folder / "bundle"


def greedy(model: Decoder, words: Tokenizer, text: str) -> str:
    """One token after the other, without a cache."""
    ids = words.encode(prompt(text, None)).ids
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < POSITIONS:
            logits_BLV = model(torch.tensor([ids]), torch.arange(len(ids))[None])
            ids.append(int(logits_BLV[0, -1].argmax()))
            if ids[-1] == 3:
                break
    return words.decode([each for each in ids[start:] if each != 3])


def test_texts_are_written_greedily_whatever_stands_beside_them(bundle: Path, model: Decoder, words: Tokenizer):
    expected = [greedy(model, words, text) for text in PROMPTS]
    assert [each["text"] for each in load_decoder(bundle).predict(PROMPTS)] == expected
    assert len(set(expected)) == len(expected)


def test_a_generator_is_loaded_as_its_bundle_says(bundle: Path):
    contender = Contender(name="teacher", kind="reference", folder=str(bundle))
    (answer,) = load(contender, DataSpec(), 1)(PROMPTS[:1])
    assert answer.text == load_decoder(bundle).predict(PROMPTS[:1])[0]["text"]
