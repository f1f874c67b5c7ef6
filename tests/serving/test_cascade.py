from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from serving.bundle import MANIFEST, BundleError, bundle_bytes, read_bundle
from serving.cascade import Cascade, join
from serving.classifier import Classifier
from serving.runtime import Input, load_bundle
from tests.tiny import bundles
from tests.tiny.bundles import LABELS, WORDS, write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS[4:10], 2)]
HEAT = (4.0, 0.8)


def softer(scores_NC: np.ndarray, temperature: float) -> np.ndarray:
    powers_NC = scores_NC.astype(np.float64) ** (1 / temperature)
    return powers_NC / powers_NC.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    write_tiny_bundle(folder / "first", seed=5, max_length=8)
    write_tiny_bundle(folder / "second", seed=0)
    return folder / "first", folder / "second"


@pytest.fixture(scope="module")
def alone(parts: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities [N, C] of each part alone."""
    first, second = parts
    return softer(load_bundle(first).scores(TEXTS), HEAT[0]), softer(load_bundle(second).scores(TEXTS), HEAT[1])


@pytest.fixture
def folder(parts: tuple[Path, Path], tmp_path: Path) -> Path:
    join(tmp_path / "cascade", *parts, 0.5, HEAT, {"accuracy": 0.9}, {"run_id": "1"})
    return tmp_path / "cascade"


def loaded(folder: Path) -> Cascade:
    classifier = load_bundle(folder)
    assert isinstance(classifier, Cascade)
    return classifier


@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.5, 0.6, 1.0])
def test_each_row_is_answered_by_the_first_where_it_is_sure_enough_and_by_the_second_elsewhere(
    threshold: float, parts: tuple[Path, Path], alone: tuple[np.ndarray, np.ndarray], tmp_path: Path
):
    join(tmp_path / "cascade", *parts, threshold, HEAT)
    cascade = loaded(tmp_path / "cascade")
    sure_N = alone[0].max(axis=1) >= threshold
    assert sure_N.all() == (threshold == 0) and (~sure_N).all() == (threshold == 1)
    expected_NC = np.where(sure_N[:, None], *alone)
    np.testing.assert_allclose(cascade.scores(TEXTS), expected_NC, atol=1e-6)
    assert [each["label"] for each in cascade.predict(TEXTS)] == [LABELS[best] for best in expected_NC.argmax(axis=1)]
    assert cascade.share_first(TEXTS) == sure_N.mean()
    assert cascade.scores([]).shape == (0, len(LABELS))


def test_a_row_is_answered_alike_alone_and_in_a_list(folder: Path):
    cascade = loaded(folder)
    one_by_one = np.concatenate([cascade.scores([text]) for text in TEXTS])
    np.testing.assert_allclose(cascade.scores(TEXTS), one_by_one, atol=1e-6)


def test_the_second_is_not_asked_what_the_first_is_sure_of(folder: Path, monkeypatch: pytest.MonkeyPatch):
    cascade = loaded(folder)
    asked: list[Any] = []
    plain = Classifier.scores

    def watched(model: Classifier, inputs: Sequence[Input]) -> np.ndarray:
        if model is cascade:
            asked.extend(inputs)
        return plain(model, inputs)

    monkeypatch.setattr(Classifier, "scores", watched)
    cascade.scores(TEXTS)
    assert asked == [text for text in TEXTS if cascade.share_first([text]) == 0]
    assert 0 < len(asked) < len(TEXTS)


def test_a_cascade_is_one_bundle_whose_manifest_holds_every_file(folder: Path, parts: tuple[Path, Path]):
    bundle, (small, large) = read_bundle(folder), map(read_bundle, parts)
    assert bundle.first is not None
    assert set(bundle.files) == {"model.onnx", "tokenizer.json", "first/model.onnx"}  # one tokenizer serves both
    assert bundle_bytes(bundle) == sum(path.stat().st_size for path in folder.rglob("*.*") if path.name != MANIFEST)
    assert (bundle.first.max_length, bundle.max_length) == (small.max_length, large.max_length) == (8, 12)
    assert (bundle.first.temperature, bundle.temperature, bundle.first.threshold) == (*HEAT, 0.5)
    assert (bundle.metrics, bundle.provenance) == ({"accuracy": 0.9}, {"run_id": "1"})
    assert bundle.labels == LABELS


def test_models_with_tokenizers_of_their_own_keep_them(
    parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lowering(pairs: bool, plain: Any = bundles.tokenizer):
        made = plain(pairs)
        made.normalizer = normalizers.Lowercase()
        return made

    monkeypatch.setattr(bundles, "tokenizer", lowering)
    write_tiny_bundle(tmp_path / "second", seed=0)
    join(tmp_path / "cascade", parts[0], tmp_path / "second", 1.0, HEAT)
    assert "first/tokenizer.json" in read_bundle(tmp_path / "cascade").files
    shouted, plain = loaded(tmp_path / "cascade").scores(["REFUND", "refund"])
    np.testing.assert_array_equal(shouted, plain)
    first = loaded(tmp_path / "cascade")._first.scores(["REFUND", "refund"])
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_details_are_those_of_the_model_that_answers(parts: tuple[Path, Path], tmp_path: Path):
    texts = [f"{text} zzz zzz zzz zzz zzz zzz" for text in TEXTS]  # with those around it 10 tokens
    sure = softer(load_bundle(parts[0]).scores(texts), HEAT[0]).max(axis=1)
    join(tmp_path / "cascade", *parts, float(np.median(sure)), HEAT)
    first_sure = sure >= np.median(sure)
    found = loaded(tmp_path / "cascade").predict(texts, details=True)
    assert [each.get("cut") for each in found] == first_sure.tolist()  # the first reads 8 tokens, the second 12
    assert {each.get("unknown") for each in found} == {4 / 6, 6 / 8}


@pytest.mark.parametrize("name", ["first/model.onnx", "model.onnx", "tokenizer.json"])
def test_a_damaged_file_of_either_model_is_refused_by_name(folder: Path, name: str):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: SHA-256 differs"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model", "../model.onnx", "first: '../model.onnx' leaves the folder"),
        ("model", "other.onnx", "names 'other.onnx' but lists no digest of it"),
        ("inputs", ["pixels"], r"first: inputs \['pixels'\] are unknown"),
        ("threshold", 2, "first.threshold"),
        ("temperature", 0, "first.temperature"),
        ("runtime", "torch", "a cascade has two exported classifiers"),
    ],
)
def test_a_manifest_whose_first_model_does_not_fit_is_refused(folder: Path, field: str, value: Any, reason: str):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["first"][field] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=reason):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"labels": LABELS[::-1]}, "their labels differ or stand in another order"),
        ({"pairs": True}, "one answers pairs of texts, one single texts"),
        ({"runtime": "torch"}, "a torch bundle for task 'classify'; a cascade joins two exported classifiers"),
    ],
)
def test_bundles_that_do_not_go_together_are_refused(
    parts: tuple[Path, Path], tmp_path: Path, fields: dict[str, Any], reason: str
):
    write_tiny_bundle(tmp_path / "other", **fields)
    with pytest.raises(BundleError, match=reason):
        join(tmp_path / "cascade", tmp_path / "other", parts[1], 0.5)
    assert not (tmp_path / "cascade").exists()


def test_a_cascade_is_no_part_of_another(folder: Path, parts: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(BundleError, match="a cascade; a cascade joins two exported classifiers"):
        join(tmp_path / "again", folder, parts[1], 0.5)


@pytest.mark.parametrize(("wrong", "name"), [(0, "first/model.onnx"), (1, "/model.onnx")])
def test_either_model_with_fewer_outputs_than_labels_is_refused_when_it_is_loaded(
    tmp_path: Path, wrong: int, name: str, monkeypatch: pytest.MonkeyPatch
):
    labels = [*LABELS, "other"]
    for part in range(2):
        if part != wrong:
            monkeypatch.setattr(bundles, "LABELS", labels)
        write_tiny_bundle(tmp_path / str(part), labels=labels)
        monkeypatch.undo()
    join(tmp_path / "cascade", tmp_path / "0", tmp_path / "1", 0.0)
    with pytest.raises(BundleError, match=f"{name}: cannot answer"):
        load_bundle(tmp_path / "cascade")


def test_the_command_answers_from_a_cascade(folder: Path):
    done = subprocess.run(
        [sys.executable, "-m", "serving.runtime", str(folder)],
        input="\n".join(TEXTS).encode(),
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert answers == [each["label"] for each in load_bundle(folder).predict(TEXTS)]
