from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs import shown_urls
from configs.loader import UsageError
from jobs.models.files import Needs, check_files, files_of, locate
from jobs.training.fit import weights_key
from tests.answering import answering
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.folders import POSITIONS, both_folder, change_json, decoder_folder, encoder_folder, word_tokenizer

LABELS = Needs(POSITIONS, ("encoder", "decoder"), writes=False)
TEXTS = Needs(POSITIONS, ("decoder",), writes=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    encoder_folder(folder / "bert")
    decoder_folder(folder / "gpt2")
    return folder


@pytest.fixture
def bert(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "bert", tmp_path / "bert")


@pytest.fixture
def gpt2(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "gpt2", tmp_path / "gpt2")


def refusal(folder: Path, needs: Needs = LABELS) -> str:
    with pytest.raises(UsageError, match=r"^(teacher\.model: |data\.max_length: )") as refused:
        check_files(files_of(str(folder)), needs)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_whole_folders_pass(bert: Path, gpt2: Path):
    check_files(files_of(str(bert)), LABELS)
    check_files(files_of(str(gpt2)), TEXTS)


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:100])


def pointer(name: str) -> Callable[[Path], object]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


def entry(name: str, **entries: object) -> Callable[[Path], object]:
    return lambda folder: change_json(folder / name, **entries)


def an_adapter(folder: Path) -> None:
    without("config.json", "model.safetensors")(folder)
    change_json(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="some/base")


def a_missing_shard(folder: Path) -> None:
    without("model.safetensors")(folder)
    change_json(folder / "model.safetensors.index.json", weight_map={"embeddings": "model-00001-of-00002.safetensors"})


def whole_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] = torch.zeros(32, 64, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors")


def tokens_added(folder: Path) -> None:
    word_tokenizer(folder, ("<order_id>", "acmephone"))


def no_unknown_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(
        path.read_text(encoding="utf-8")
        .replace('"unk_token":"[UNK]"', '"unk_token":"<none>"')
        .replace('"unk_token": "[UNK]"', '"unk_token": "<none>"'),
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (without("config.json"), "holds no config.json (but model.safetensors, "),
        (cut("config.json"), "config.json: cannot be read: "),
        (entry("config.json", model_type=""), "config.json names no model_type"),
        (an_adapter, "an adapter of some/base, not a model of its own; merge the two"),
        (without("model.safetensors"), "holds no weights; model.safetensors or pytorch_model.bin is needed"),
        (cut("model.safetensors"), "model.safetensors: cannot be read: "),
        (pointer("model.safetensors"), "model.safetensors: a pointer of Git LFS, not the file; run git lfs pull there"),
        (a_missing_shard, "model-00001-of-00002.safetensors is missing, which the index names"),
        (entry("config.json", quantization_config={"quant_method": "gptq"}), "its weights are quantised (gptq)"),
        (entry("config.json", quantization_config={"quant_method": "awq"}), "its weights are quantised (awq)"),
        (whole_numbers, "its weights are quantised (encoder.layer.0.output.dense.weight is I8)"),
        (without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer (tokenizer.json or a vocabulary)"),
        (cut("tokenizer.json"), "tokenizer.json: cannot be read: "),
        (pointer("tokenizer.json"), "tokenizer.json: a pointer of Git LFS"),
        (no_unknown_token, "its tokenizer stops at unknown text: '<none>' is none of its tokens"),
        (tokens_added, "2 tokens of its tokenizer have no row in the token table of 15 rows, as '<order_id>'"),
        (entry("config.json", pad_token_id=15), "config.json: pad_token_id: 15: the token table has 15 rows"),
        (entry("config.json", max_position_embeddings=60), f"data.max_length: {POSITIONS}: teacher.model: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_files_tell_is_refused_by_them(bert: Path, harm: Callable[[Path], object], said: str):
    harm(bert)
    assert said in refusal(bert)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (entry("config.json", eos_token_id=50256), "config.json: eos_token_id: 50256: the token table has 257 rows"),
        (entry("config.json", eos_token_id=[0, 400]), "config.json: eos_token_id: 400: the token table has 257 rows"),
        (entry("generation_config.json", pad_token_id=257), "generation_config.json: pad_token_id: 257: the token"),
        (entry("config.json", vocab_size=320, eos_token_id=300), "eos_token_id: 300: no token of its tokenizer has"),
    ],
)
def test_a_token_that_a_decoder_would_write_has_a_row(gpt2: Path, harm: Callable[[Path], object], said: str):
    harm(gpt2)
    assert said in refusal(gpt2, TEXTS)


def test_an_encoder_never_writes_its_end_so_it_may_be_any(bert: Path):
    change_json(bert / "config.json", eos_token_id=50256)
    check_files(files_of(str(bert)), LABELS)


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("needs", [LABELS, TEXTS])
def test_an_encoder_decoder_is_refused_by_name(kind: str, needs: Needs, tmp_path: Path):
    assert f"{kind} is an encoder-decoder; give {' or '.join(needs.kinds)}" in refusal(
        both_folder(tmp_path, kind), needs
    )


def test_an_exported_bundle_and_a_damaged_one_are_refused(tmp_path: Path):
    write_tiny_bundle(tmp_path / "whole")
    assert "an exported onnxruntime bundle, which cannot be trained; give the" in refusal(tmp_path / "whole")
    file = tmp_path / "whole" / "tokenizer.json"
    file.write_bytes(file.read_bytes() + b"\n")
    assert "tokenizer.json" in refusal(tmp_path / "whole")
    (tmp_path / "whole" / "bundle.json").write_text("{")
    assert "make it again" in refusal(tmp_path / "whole")


def test_a_file_and_a_folder_that_is_not_there_are_told_apart(bert: Path):
    with pytest.raises(UsageError, match=r"model\.safetensors: is a file; give the folder that holds it"):
        files_of(str(bert / "model.safetensors"))
    with pytest.raises(UsageError, match=r"^student\.model: /no/such: no such folder; give a model's folder or a Hub"):
        files_of("/no/such", "student.model")
    misspelt = str(bert.with_name(bert.name + "s"))
    with pytest.raises(
        UsageError, match=rf"^teacher\.model: {misspelt}: no such folder; did you mean {bert.name!r}\?$"
    ):
        files_of(misspelt)


def test_an_id_that_is_no_folder_is_asked_of_the_hub_once(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with answering(404, "", {"X-Error-Code": "RepoNotFound"}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        for name in ("shop/modle", "modle", "shop/modle@v1"):
            with pytest.raises(
                UsageError, match=rf"^teacher\.model: {name}: no such folder here, and the Hub has no such"
            ):
                files_of(name)
        assert len([path for path in server.asked if path.startswith("/api/models/")]) == 3


def test_a_folder_or_id_may_stand_in_the_environment(bert: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shown_urls, "_hidden", {})
    monkeypatch.setenv("OUR_MODEL", str(bert))
    found = files_of("env:OUR_MODEL", "student.model")
    assert (found.folder, found.at) == (bert, "student.model: env:OUR_MODEL")
    key = weights_key("env:OUR_MODEL", "student.model")
    assert key == weights_key(str(bert), "student.model")
    monkeypatch.setenv("OUR_MODEL", "shop/first")
    first = weights_key("env:OUR_MODEL", "student.model")
    monkeypatch.setenv("OUR_MODEL", "shop/second")
    assert first != weights_key("env:OUR_MODEL", "student.model")
    assert "shop" not in str(first)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package `shop_weights` with a model folder `small`."""
    folder = tmp_path / "shop_weights"
    (folder / "small").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "small" / "config.json").write_text("{}")
    (tmp_path / "shop_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return folder


def test_a_package_model_is_found_without_importing_the_package(package: Path):
    assert locate("package:shop_weights/small") == str(package / "small")
    assert "shop_weights" not in sys.modules


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("package:no_such_weights/small", "no installed package 'no_such_weights'; the extra 'sample' of slimcart"),
        ("package:shop_module/small", "no installed package 'shop_module'"),
        ("package:shop_weights/large", "the package holds no model folder 'large'"),
        ("package:shop_weights", "the package holds no model folder ''"),
        ("package:", "no installed package ''"),
        ("package:no_such.weights/small", "no installed package 'no_such.weights'"),
    ],
)
def test_a_package_model_that_is_not_there_is_a_usage_error(package: Path, model: str, said: str):
    with pytest.raises(UsageError, match=r"teacher\.model") as refused:
        locate(model)
    assert said in str(refused.value)


def test_folders_and_hub_ids_stay_as_they_are():
    assert locate("/models/bert") == "/models/bert"
    assert locate("bert-base-uncased") == "bert-base-uncased"
