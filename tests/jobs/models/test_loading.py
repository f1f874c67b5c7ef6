from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from configs.loader import UsageError
from configs.schema.models import TeacherSpec
from jobs.models import encoder
from jobs.models.files import files_of
from jobs.models.loading import load_tokenizer, load_weights, longest
from tests.tiny.folders import POSITIONS, decoder_folder, encoder_folder


def rename(folder: Path, change: Any) -> Path:
    weights = load_file(folder / "model.safetensors")
    changed = {change(name): weight for name, weight in weights.items() if change(name)}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"module.{name}", "in the file they begin with 'module.'"),
        (lambda name: f"backbone.net.{name}", "in the file they begin with 'backbone.net.'"),
        (lambda name: f"_orig_mod.{name}", "in the file they begin with '_orig_mod.'"),
        (lambda name: "" if ".layer.1." in name else name, "16 weights of BertModel are missing, as encoder.layer.1."),
        (lambda name: name.replace("query.weight", "query.base_layer.weight"), "query.weight; save the whole model"),
    ],
)
def test_weights_of_the_body_that_are_missing_are_no_random_ones(tmp_path: Path, change: Any, said: str):
    folder = rename(encoder_folder(tmp_path), change)
    with pytest.raises(UsageError, match=r"^teacher\.model: .* missing, as ") as refused:
        load_weights(AutoModel, files_of(str(folder)))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name if "pooler" not in name else "",  # the body of a masked language model has none
        lambda name: f"bert.{name}",  # a model with a head of its own
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ],
)
def test_a_head_may_be_missing_and_old_names_are_known(tmp_path: Path, change: Any):
    before = load_file(encoder_folder(tmp_path) / "model.safetensors")
    found = load_weights(AutoModel, files_of(str(rename(tmp_path, change)))).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in before.items() if "pooler" not in name)


def test_the_scores_of_a_decoder_may_be_new_and_its_body_may_not(tmp_path: Path):
    folder = decoder_folder(tmp_path, "llama", tie_word_embeddings=False)
    rename(folder, lambda name: name if name != "lm_head.weight" else "")
    load_weights(AutoModelForCausalLM, files_of(str(folder)))
    rename(folder, lambda name: name if name != "model.norm.weight" else "")
    with pytest.raises(UsageError, match=r"1 weights of LlamaForCausalLM are missing, as model\.norm\.weight"):
        load_weights(AutoModelForCausalLM, files_of(str(folder)))


def test_weights_of_another_size_than_the_config_are_refused_by_name(tmp_path: Path):
    folder = rename(encoder_folder(tmp_path), lambda name: name)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = torch.zeros(20, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"word_embeddings\.weight is 20 x 32 in the file and 15 x 32 by config\.json"):
        load_weights(AutoModel, files_of(str(folder)))


@pytest.mark.parametrize(
    ("kind", "entries", "most"),
    [
        ("bert", {}, POSITIONS),
        ("roberta", {}, POSITIONS),  # one row before the first position
        ("roberta", {"pad_token_id": 3}, POSITIONS - 3),
        ("mpnet", {}, POSITIONS),
        ("camembert", {"max_position_embeddings": 40}, 39),
        ("deberta-v2", {}, POSITIONS),
        ("modernbert", {}, POSITIONS),
    ],
)
def test_positions_are_those_that_a_table_has_left(kind: str, entries: dict[str, Any], most: int, tmp_path: Path):
    model = load_weights(AutoModel, files_of(str(encoder_folder(tmp_path, kind, **entries)))).eval()
    assert longest(model) == most
    ids = torch.full((1, most), 7)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.shape[1] == most


@pytest.mark.parametrize(("kind", "most"), [("gpt2", POSITIONS), ("opt", POSITIONS), ("bloom", None), ("mamba", None)])
def test_decoders_have_positions_or_no_limit(kind: str, most: int | None, tmp_path: Path):
    assert longest(load_weights(AutoModelForCausalLM, files_of(str(decoder_folder(tmp_path, kind))))) == most


def test_a_tokenizer_of_parts_that_are_not_there_is_not_made_up(tmp_path: Path):
    folder = encoder_folder(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    for name in (None, "vocab.json", "merges.txt"):  # none of them is what BERT's tokenizer is made of
        if name:
            (folder / name).write_text("{}")
        with pytest.raises(UsageError, match=r"^teacher\.model: .*: holds no tokenizer\.json, and of what a BertTok"):
            load_tokenizer(str(folder))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\norder\n")
    assert load_tokenizer(str(folder)).encode("order", add_special_tokens=False).ids == [5]


def test_a_folder_without_a_model_is_a_usage_error(tmp_path: Path):
    for refused in (load_tokenizer, lambda model: encoder.pretrained(TeacherSpec(model=model), ["a", "b"])):
        with pytest.raises(UsageError, match=r"teacher\.model") as error:
            refused(str(tmp_path))
        assert len(str(error.value).splitlines()) == 1


def test_the_tokenizer_neither_pads_nor_truncates(tiny_teacher: Path):
    tokenizer = load_tokenizer(str(tiny_teacher))
    assert tokenizer.padding is None and tokenizer.truncation is None
    assert len(tokenizer.encode("order " * 300)) > 300
