"""The runtimes behind one bundle format: the same answers, and what is wrong with a file is said when it is opened."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.folder import digest_file
from serving.bundle import MANIFEST, BundleError, read_bundle
from serving.runtime import load_bundle
from tests.tiny.bundles import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["where is my order", "refund", "please cancel it now please", "", "unheard words", "is it my refund"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino") / "bundle"
    write_tiny_bundle(folder, runtime="openvino")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def relist(folder: Path, name: str) -> None:
    """State the digest of a changed file, as its author would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / name
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("tokens_per_batch", [1, 7, 2048])
def test_openvino_answers_as_onnxruntime_however_batches_are_cut(whole: Path, tmp_path: Path, tokens_per_batch: int):
    write_tiny_bundle(tmp_path / "onnx")
    expected_NC = load_bundle(tmp_path / "onnx").scores(TEXTS)
    scores_NC = load_bundle(whole, tokens_per_batch=tokens_per_batch).scores(TEXTS)
    assert scores_NC.dtype == np.float32
    np.testing.assert_allclose(scores_NC, expected_NC, atol=1e-5)


def test_openvino_answers_pairs(tmp_path: Path):
    write_tiny_bundle(tmp_path / "onnx", pairs=True)
    write_tiny_bundle(tmp_path / "ir", pairs=True, runtime="openvino")
    pairs = [("order", "now"), ("now", "order please")]
    expected_NC = load_bundle(tmp_path / "onnx").scores(pairs)
    np.testing.assert_allclose(load_bundle(tmp_path / "ir").scores(pairs), expected_NC, atol=1e-5)


def test_an_answer_stays_when_the_next_one_is_asked_for(whole: Path):
    model: Any = load_bundle(whole)._model
    feed = {"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.ones((1, 3), dtype=np.int64)}
    first = model.logits(feed)
    kept = first.copy()
    model.logits({**feed, "input_ids": np.array([[2, 8, 3]])})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:]])
def test_one_flipped_bit_or_a_cut_file_is_refused_by_name(folder: Path, name: str, damage):
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)


def test_a_pickle_in_the_place_of_the_weights_is_refused(folder: Path):
    (folder / "model.bin").write_bytes(pickle.dumps([1.0], 0))
    relist(folder, "model.bin")
    with pytest.raises(BundleError, match=r"model\.bin: reads as a pickle"):
        load_bundle(folder)


def test_weights_that_are_not_listed_are_refused(folder: Path):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["model.bin"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"model\.bin"):
        read_bundle(folder)


def test_a_graph_that_openvino_cannot_read_is_refused_in_one_line(folder: Path):
    (folder / "model.xml").write_text("<net>")
    relist(folder, "model.xml")
    with pytest.raises(BundleError, match=r"model\.xml: ") as refused:
        load_bundle(folder)
    assert "\n" not in str(refused.value)


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(folder: Path):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "inputs": ["input_ids"]}))
    with pytest.raises(BundleError, match=r"model\.xml: inputs .*attention_mask.* the manifest says \['input_ids'\]"):
        load_bundle(folder)


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        BundleError,
        match=r"runtime 'openvino' is not installed here; install slimcart with its extra 'runtimes'",
    ):
        load_bundle(whole)


@pytest.mark.parametrize(("task", "runtime"), [("classify", "ctranslate2"), ("generate", "openvino")])
def test_a_runtime_that_does_not_run_the_task_is_refused(folder: Path, task: str, runtime: str):
    manifest = json.loads((folder / MANIFEST).read_text())
    labels = manifest["labels"] if task == "classify" else []
    changed = {**manifest, "task": task, "labels": labels, "runtime": runtime}
    (folder / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(BundleError, match=f"runtime '{runtime}' does not run task '{task}'"):
        load_bundle(folder)


def test_openvino_is_loaded_without_torch_and_without_its_telemetry(whole: Path):
    code = (
        "import sys; from serving.runtime import load_bundle; load_bundle(sys.argv[1]).predict(['refund']);"
        "print([each for each in ('ray', 'torch', 'transformers', 'nncf', 'onnxruntime') if each in sys.modules],"
        "sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(whole)], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == b"[] None"
