from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.models import encoder
from jobs.models.files import files_of
from jobs.models.inspection import inspect, kind_of
from jobs.models.loading import load_tokenizer, read_config
from jobs.models.reference import write_reference
from tests.tiny.folders import (
    BOTH,
    DECODERS,
    ENCODERS,
    POSITIONS,
    both_folder,
    change_json,
    decoder_folder,
    encoder_folder,
)
from tests.tiny.models import encoder_classifier


def recipe(task: str, length: int = POSITIONS) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "task": task, "data": {"max_length": length}})


def refusal(folder: Path, task: str, length: int = POSITIONS) -> str:
    with pytest.raises(UsageError) as refused:
        inspect(str(folder), "student.model", recipe(task, length))
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


FIRST = ("bert", "roberta", "gpt2", "llama", "t5")


def kinds(*tables: dict[str, Any]) -> list[Any]:
    """Names of families; those beyond the first of their like are for the long run."""
    return [pytest.param(kind, marks=() if kind in FIRST else pytest.mark.often) for table in tables for kind in table]


@pytest.mark.parametrize("kind", kinds(ENCODERS))
def test_an_encoder_is_taken_for_labels_and_refused_by_name_for_texts(kind: str, tmp_path: Path):
    folder = encoder_folder(tmp_path, kind)
    inspect(str(folder), "student.model", recipe("classify"))
    assert f"{kind} is an encoder; give decoder models, of text alone" in refusal(folder, "generate")


@pytest.mark.parametrize("kind", kinds(DECODERS))
def test_a_decoder_is_taken_for_both(kind: str, tmp_path: Path):
    folder = decoder_folder(tmp_path, kind)
    for task in ("classify", "generate"):
        inspect(str(folder), "student.model", recipe(task))


@pytest.mark.parametrize("kind", kinds(BOTH))
def test_an_encoder_decoder_is_neither(kind: str, tmp_path: Path):
    for task in ("classify", "generate"):
        assert f"{kind} is an encoder-decoder" in refusal(both_folder(tmp_path, kind), task)


def test_a_model_that_reads_pictures_too_is_refused_by_name():
    from transformers import CLIPConfig, Gemma3Config

    assert kind_of(CLIPConfig()) == kind_of(Gemma3Config()) == "model of more than text"
    assert kind_of(GPT2Config()) == "decoder"


def test_a_model_under_a_kinds_name_that_looks_ahead_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.models.inspection.kind_of", lambda config: "decoder")
    folder = encoder_folder(tmp_path, auto="AutoModelForMaskedLM")
    assert "bert looks at later tokens, so it cannot write" in refusal(folder, "generate")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("make", [encoder_folder, decoder_folder])
def test_weights_that_are_no_numbers_are_refused_by_name(make: Any, value: float, tmp_path: Path):
    file = make(tmp_path) / "model.safetensors"
    weights = load_file(file)
    name = max(weights)
    weights[name].view(-1)[3] = value
    save_file(weights, file, metadata={"format": "pt"})
    task = "classify" if make is encoder_folder else "generate"
    assert f"{name} holds values that are no numbers (NaN or infinite); " in refusal(tmp_path, task)


def test_positions_before_the_first_are_no_room_for_texts(tmp_path: Path):
    inspect(str(encoder_folder(tmp_path, "roberta")), "student.model", recipe("classify"))
    said = refusal(tmp_path, "classify", POSITIONS + 1)
    assert said == f"data.max_length: {POSITIONS + 1}: student.model: {tmp_path} takes {POSITIONS} tokens at most"


def test_the_table_itself_counts_where_the_config_says_more(tmp_path: Path):
    folder = encoder_folder(tmp_path)
    told = json.loads((folder / "config.json").read_text())
    del told["vocab_size"]
    (folder / "config.json").write_text(json.dumps(told))
    assert "word_embeddings.weight is 15 x 32 in the file and 30522 x 32 by config.json" in refusal(folder, "classify")


def saved_classifier(folder: Path, model: encoder.EncoderClassifier) -> Path:
    encoder_folder(folder / "model")
    learned = {"key": "k", "labels": list("abcde"), "pairs": False, "max_length": 8, "task": "classify"}
    write_reference(folder / "teacher", model, Prepared(folder / "model", learned), "tiny", {}, {})
    return folder / "teacher"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_bundle_of_ours_is_a_pretrained_model_with_its_own_weights(tmp_path: Path, pooling: str):
    model = encoder_classifier(pooling=pooling)
    folder = saved_classifier(tmp_path, model)
    inspect(str(folder), "teacher.model", recipe("classify", 16))
    again = encoder.from_pretrained(str(folder), "auto", 3, 0.0)
    assert again.pooling == pooling
    torch.testing.assert_close(again.encoder.state_dict(), model.encoder.state_dict())
    assert again.classes == 3
    assert load_tokenizer(str(folder)).token_to_id("parcel") is not None


def test_a_decoders_bundle_is_one_too(tmp_path: Path):
    folder = decoder_folder(tmp_path / "model", "llama")
    learned = {"key": "k", "labels": [], "pairs": False, "max_length": 8, "task": "generate"}
    from jobs.models import decoder

    model = decoder.from_pretrained(str(folder), 8)
    write_reference(tmp_path / "teacher", model, Prepared(folder, learned), "tiny", {}, {})
    inspect(str(tmp_path / "teacher"), "teacher.model", recipe("generate", 16))
    again = decoder.from_pretrained(str(tmp_path / "teacher"), 16)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


OWN = """
from pathlib import Path

Path({mark!r}).write_text("run")
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertModel):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
MODELS, TOKENIZERS = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}, "own.OwnTokenizer"
OF_ITS_OWN = {"tokenizer_class": "OwnTokenizer"}
CODE = {
    "model": ("config.json", {"model_type": "own", "auto_map": MODELS}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, TOKENIZERS]}} | OF_ITS_OWN),
    "tokenizer, as it was written before": ("tokenizer_config.json", {"auto_map": [TOKENIZERS, None]} | OF_ITS_OWN),
    "known model": ("config.json", {"auto_map": MODELS}),
}


class NoOneThere:
    """A terminal that must not be asked."""

    def readline(self, *_: Any) -> str:
        raise AssertionError("a question was asked")


@pytest.mark.parametrize("which", CODE)
def test_code_in_a_folder_is_never_run_and_nobody_is_asked(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", NoOneThere())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    folder, mark = encoder_folder(tmp_path / "model"), tmp_path / "was_run"
    (folder / "own.py").write_text(OWN.format(mark=str(mark)))
    name, entries = CODE[which]
    change_json(folder / name, **entries)
    if which == "known model":
        inspect(str(folder), "student.model", recipe("classify"))
    else:
        assert "own.OwnTokenizer" in (said := refusal(folder, "classify")) or "contains custom code" in said
    for read in (load_tokenizer, lambda model: read_config(files_of(model)), lambda model: encoder.load(Path(model))):
        try:
            read(str(folder))
        except (UsageError, ValueError, OSError, KeyError, AttributeError):
            continue
    assert not mark.exists()


def test_the_code_of_that_folder_would_leave_its_mark(tmp_path: Path):
    from transformers import AutoConfig

    folder, mark = encoder_folder(tmp_path / "model"), tmp_path / "was_run"
    (folder / "own.py").write_text(OWN.format(mark=str(mark)))
    change_json(folder / "config.json", **CODE["model"][1])
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()


def test_a_bundle_that_brings_code_is_refused(tmp_path: Path):
    folder = saved_classifier(tmp_path, encoder_classifier())
    change_json(folder / "config.json", **CODE["model"][1])
    assert "config.json" in refusal(folder, "classify")  # by its digest
