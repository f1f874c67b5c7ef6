from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.runtimes import SHOWN
from jobs.compression.export import ctranslate2, onnx
from jobs.compression.export.small import small
from jobs.models import encoder
from jobs.models.loading import config_of
from jobs.preflight import check_possible
from tests.tiny.folders import DECODERS, ENCODERS, decoder_folder, encoder_folder

LONG = pytest.mark.often


def generate(folder: Path, **student: Any) -> Recipe:
    asked = {"layers": 2} | student
    fields = {"name": "tiny", "task": "generate", "teacher": {"model": str(folder)}, "student": asked}
    return Recipe.model_validate(fields | {"data": {"max_length": 32}})


@pytest.mark.parametrize(
    ("kind", "entries", "said"),
    [
        ("mamba", {}, "No conversion is registered for the model configuration MambaConfig"),
        pytest.param("gpt_neo", {}, "No conversion is registered for the model configuration GPTNeoC", marks=LONG),
        ("opt", {}, "Vocabulary has size 264 but the model expected a vocabulary of size 257"),
        ("gemma3_text", {"query_pre_attn_scalar": 64}, "CTranslate2 scores otherwise than the model, by "),
        pytest.param("gemma2", {"query_pre_attn_scalar": 64}, "CTranslate2 scores otherwise than", marks=LONG),
        pytest.param(
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}},
            "RoPE scaling type 'yarn' is not yet implemented",
            marks=LONG,
        ),
        pytest.param("gpt_neox", {}, "CTranslate2 cannot convert this decoder: ", marks=LONG),
        pytest.param("phi", {}, "CTranslate2 cannot convert this decoder: ", marks=LONG),
    ],
)
def test_a_decoder_without_an_export_is_refused_before_it_is_trained(
    kind: str, entries: dict[str, Any], said: str, tmp_path: Path
):
    folder = decoder_folder(tmp_path, kind, **entries)
    with pytest.raises(UsageError, match=rf"^teacher\.model: .* config \({kind}\) cannot be exported for ctrans") as at:
        check_possible(generate(folder))
    assert said in str(at.value)
    assert len(str(at.value).splitlines()) == 1


TAKEN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gptj", "bloom", "gpt2")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind == "qwen3" else LONG) for kind in TAKEN])
def test_a_decoder_with_an_export_passes(kind: str, tmp_path: Path):
    ctranslate2.try_export(config_of(str(decoder_folder(tmp_path, kind))))


def test_what_is_exported_is_the_student(tmp_path: Path):
    opt, gpt2 = decoder_folder(tmp_path / "opt", "opt"), decoder_folder(tmp_path / "gpt2")
    recipe = generate(opt).model_dump()
    pretrained = {"kind": "pretrained", "model": str(gpt2)}
    check_possible(Recipe.model_validate(recipe | {"student": pretrained}))
    turned = recipe | {"teacher": {"model": str(gpt2)}, "student": pretrained | {"model": str(opt)}}
    with pytest.raises(UsageError, match=r"^student\.model: .* \(opt\) cannot be exported for ctranslate2"):
        check_possible(Recipe.model_validate(turned))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind == "albert" else LONG) for kind in ENCODERS])
def test_an_encoder_passes_through_onnx(kind: str, tmp_path: Path):
    folder = encoder_folder(tmp_path, kind, vocab_size=60)
    onnx.try_export(config_of(str(folder)))


def test_an_encoder_that_is_not_shown_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried: list[str] = []

    def fail(config: Any) -> None:
        tried.append(config.model_type)
        raise ValueError("no such operation: roll")

    monkeypatch.setattr(onnx, "try_export", fail)
    for kind in ("bert", "mpnet"):
        folder = encoder_folder(tmp_path / kind, kind)
        fields = {"name": "tiny", "teacher": {"model": str(folder)}, "student": {"layers": 2}}
        recipe = Recipe.model_validate(fields | {"data": {"max_length": 32}})
        if kind in SHOWN:
            check_possible(recipe)
        else:
            with pytest.raises(UsageError, match=r"\(mpnet\) cannot be exported for onnxruntime: no such operation"):
                check_possible(recipe)
    assert tried == ["mpnet"]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_a_small_model_keeps_what_shapes_attention(kind: str, tmp_path: Path):
    entries: dict[str, Any] = {"gpt2": {"n_layer": 6}}.get(kind, {"num_hidden_layers": 6, "intermediate_size": 256})
    whole = config_of(str(decoder_folder(tmp_path, kind, vocab_size=2000, **entries)))
    less = small(whole)
    assert (less.num_hidden_layers, less.hidden_size) == (2 if kind != "gemma3_text" else 6, whole.hidden_size)
    assert less.num_attention_heads == whole.num_attention_heads
    assert less.vocab_size % 64 == whole.vocab_size % 64 and less.vocab_size < 320
    assert encoder.from_config(less, "mean", 2, 0.0).encoder.config.num_hidden_layers == less.num_hidden_layers


def test_every_family_of_decoders_is_either_taken_or_refused():
    refused = {"opt", "gpt_neo", "gpt_neox", "mamba", "phi", "phi3"}
    assert set(TAKEN) | refused == set(DECODERS)
