from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import AutoConfig, BertConfig, ModernBertConfig, PreTrainedConfig

from configs.loader import UsageError
from jobs.models import encoder
from jobs.models.files import files_of
from jobs.models.pooling import pooling_files, pooling_of
from jobs.training.fit import weights_key

FIELD = "teacher.pooling"
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules.pooling."


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def modules(kind: str, path: str) -> list[dict[str, Any]]:
    return [{"idx": 0, "path": "", "type": f"{OLD}Transformer"}, {"idx": 1, "path": path, "type": f"{kind}Pooling"}]


FIRST = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
MEAN, MAX = {"pooling_mode": "mean", "embedding_dimension": 32}, {"pooling_mode": "max"}


@pytest.mark.parametrize(
    ("asked", "files", "pooling"),
    [
        ("auto", {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}, "mean"),
        ("auto", {"1_Pooling/config.json": FIRST}, "cls"),
        ("auto", {"1_Pooling/config.json": MEAN}, "mean"),
        ("auto", {"1_Pooling/config.json": {"pooling_mode": ["mean"]}}, "mean"),
        ("auto", {"1_Pooling/config.json": {"pooling_mode_mean_tokens": False}}, "mean"),  # their default
        ("auto", {"modules.json": modules(OLD, "2_Pooling"), "2_Pooling/config.json": MEAN}, "mean"),
        ("auto", {"modules.json": modules(NEW, "parts/pool"), "parts/pool/config.json": MEAN}, "mean"),
        (
            "auto",
            {"modules.json": modules(NEW, "2_Pooling"), "2_Pooling/config.json": FIRST, "1_Pooling/config.json": MEAN},
            "cls",
        ),
        ("auto", {"modules.json": modules(OLD, "../elsewhere"), "../elsewhere/config.json": MEAN}, "cls"),
        ("auto", {}, "cls"),
        ("mean", {}, "mean"),
        ("mean", {"1_Pooling/config.json": MAX}, "mean"),
        ("cls", {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}, "cls"),
    ],
)
def test_pooling_is_what_was_asked_for_or_what_the_files_say(
    asked: str, files: dict[str, Any], pooling: str, tmp_path: Path
):
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, files)
    assert pooling_of(folder, asked, BertConfig(), FIELD) == pooling


@pytest.mark.parametrize(("stated", "pooling"), [({}, "cls"), ({"classifier_pooling": "mean"}, "mean")])
def test_without_such_files_the_config_may_say_it(stated: dict[str, Any], pooling: str, tmp_path: Path):
    assert pooling_of(tmp_path, "auto", ModernBertConfig(**stated), FIELD) == pooling


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode": ["cls", "mean"]}, r"cls\+mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, r"cls\+max"),
        ({"pooling_mode": "of the future"}, "of the future"),
    ],
)
def test_another_pooling_is_refused_with_the_choices(config: dict[str, Any], said: str, tmp_path: Path):
    write(tmp_path, {"1_Pooling/config.json": config})
    refusal = rf"^teacher\.pooling: auto: {tmp_path}/1_Pooling/config\.json says '{said}', which .*; give mean or cls$"
    with pytest.raises(UsageError, match=refusal):
        pooling_of(tmp_path, "auto", BertConfig(), FIELD)


def test_a_damaged_file_is_refused_and_not_passed_over(tmp_path: Path):
    write(tmp_path, {"1_Pooling/config.json": {}})
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "me')
    with pytest.raises(UsageError, match=r"^teacher\.pooling: .*1_Pooling/config\.json: cannot be read: .*mean or cls"):
        pooling_of(tmp_path, "auto", BertConfig(), FIELD)


def of_kind(kind: str, **more: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(kind, **more)


DECODERS = [of_kind("gpt2"), of_kind("qwen3"), of_kind("opt"), of_kind("mamba"), BertConfig(is_decoder=True)]


@pytest.mark.parametrize("config", DECODERS, ids=lambda config: config.model_type)
def test_a_decoder_is_never_given_its_first_token(config: PreTrainedConfig, tmp_path: Path):
    for asked in ("auto", "cls"):
        refusal = (
            rf"^teacher\.pooling: {asked}: {tmp_path}.* decoder \({config.model_type}\).*; give mean, or an encoder"
        )
        with pytest.raises(UsageError, match=refusal):
            pooling_of(tmp_path, asked, config, FIELD)
    assert pooling_of(tmp_path, "mean", config, FIELD) == "mean"
    write(tmp_path, {"1_Pooling/config.json": MEAN})
    assert pooling_of(tmp_path, "auto", config, FIELD) == "mean"
    for stated in (FIRST, {"pooling_mode_lasttoken": True}):
        write(tmp_path, {"1_Pooling/config.json": stated})
        with pytest.raises(UsageError, match=r"/1_Pooling/config\.json says '(cls|lasttoken)'.*; give mean, or an enc"):
            pooling_of(tmp_path, "auto", config, FIELD)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "deberta-v2", "albert", "mpnet", "distilbert"])
def test_an_encoder_without_such_files_has_its_first_token(kind: str, tmp_path: Path):
    assert pooling_of(tmp_path, "auto", of_kind(kind), FIELD) == "cls"


def test_a_decoder_that_sees_both_ways_is_one_no_more(tmp_path: Path):
    config = of_kind("gemma3_text", use_bidirectional_attention=True)
    assert pooling_of(tmp_path, "cls", config, FIELD) == "cls"


def test_the_student_s_field_is_named_for_the_student(tiny_teacher: Path, tmp_path: Path):
    folder = tmp_path / "model"
    AutoConfig.from_pretrained(tiny_teacher).save_pretrained(folder)
    write(folder, {"1_Pooling/config.json": MAX})
    with pytest.raises(UsageError, match=r"^student\.pooling: auto: .* says 'max'"):
        encoder.check_pooling(str(folder), "auto", "student.model")


def test_a_key_holds_the_file_that_the_list_of_modules_names(tmp_path: Path):
    write(tmp_path, {"config.json": {}, "modules.json": modules(OLD, "pool"), "pool/config.json": MEAN})
    assert pooling_files(tmp_path, FIELD) == [tmp_path / "pool/config.json"]
    before = weights_key(str(tmp_path), "teacher.model")
    write(tmp_path, {"pool/config.json": FIRST})
    assert weights_key(str(tmp_path), "teacher.model") != before


HUB = "made-up/encoder"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `HUB` in a cache of the Hub that no request leaves."""
    commit = "c" * 40
    cache = tmp_path / "hub" / "models--made-up--encoder"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.parametrize(("config", "pooling"), [(MEAN, "mean"), (FIRST, "cls")])
def test_the_files_of_a_hub_model_lie_in_its_snapshot(hub: Path, config: dict[str, Any], pooling: str):
    write(hub, {"modules.json": modules(OLD, "pool"), "pool/config.json": config, "model.safetensors": {}})
    assert pooling_of(files_of(HUB).folder, "auto", BertConfig(), FIELD) == pooling


def test_a_hub_model_without_such_files_has_its_first_token(hub: Path):
    write(hub, {"config.json": {}, "model.safetensors": {}})
    assert pooling_of(files_of(HUB).folder, "auto", BertConfig(), FIELD) == "cls"
