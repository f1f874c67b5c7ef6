from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from cluster.session import JobError
from jobs.compression.export import SAMPLE, TOLERANCE, export_onnx
from jobs.models.encoder import EncoderClassifier
from tests.tiny_models import CLASSES, POSITIONS, batch, encoder_classifier

SINGLE = ("input_ids", "attention_mask")
PAIR = (*SINGLE, "token_type_ids")


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def logits(file: onnxruntime.InferenceSession, given: dict[str, torch.Tensor]) -> np.ndarray:
    return np.asarray(file.run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})[0])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderClassifier, onnxruntime.InferenceSession]:
    model, file = encoder_classifier(), tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(model, SINGLE, file)
    return model, session(file)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 2), (1, 33), (7, 9), (2, 40), (33, 12), SAMPLE])
def test_the_file_answers_like_the_model_at_any_batch_and_length_and_under_masks(
    exported: tuple[EncoderClassifier, onnxruntime.InferenceSession], rows: int, tokens: int
):
    model, file = exported
    given = batch(rows, tokens, seed=rows)
    with torch.inference_mode():
        expected_BC = model(**given).numpy()
    assert expected_BC.shape == (rows, CLASSES)
    np.testing.assert_allclose(logits(file, given), expected_BC, atol=TOLERANCE)


def test_the_mask_counts(exported: tuple[EncoderClassifier, onnxruntime.InferenceSession]):
    given = batch(1, 9)
    shorter = given | {"attention_mask": (torch.arange(9) < 4).long()[None]}
    assert np.abs(logits(exported[1], given) - logits(exported[1], shorter)).max() > 10 * TOLERANCE


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_other_encoders_and_poolings_are_exported_too(kind: str, pooling: str, tmp_path: Path):
    model, given = encoder_classifier(kind, pooling=pooling), batch(4, 21)
    export_onnx(model, SINGLE, tmp_path / "model.onnx")
    with torch.inference_mode():
        expected_BC = model(**given).numpy()
    np.testing.assert_allclose(logits(session(tmp_path / "model.onnx"), given), expected_BC, atol=TOLERANCE)


def test_token_types_are_an_input_of_a_file_for_pairs(tmp_path: Path):
    model, given = encoder_classifier(), batch(3, 14)
    export_onnx(model, PAIR, tmp_path / "model.onnx")
    file = session(tmp_path / "model.onnx")
    for types in (torch.zeros(3, 14, dtype=torch.int64), (torch.arange(14) > 6).long().repeat(3, 1)):
        typed = given | {"token_type_ids": types}
        with torch.inference_mode():
            np.testing.assert_allclose(logits(file, typed), model(**typed).numpy(), atol=TOLERANCE)


def test_inputs_and_output_have_their_names_types_and_free_sizes(
    exported: tuple[EncoderClassifier, onnxruntime.InferenceSession],
):
    described = [(each.name, each.type) for each in exported[1].get_inputs()]
    assert described == [(name, "tensor(int64)") for name in SINGLE]
    shapes = [each.shape for each in exported[1].get_inputs()]
    assert all(isinstance(size, str) for shape in shapes for size in shape)
    assert [each.name for each in exported[1].get_outputs()] == ["logits"]


@pytest.mark.parametrize(("kind", "longest"), [("bert", POSITIONS), ("roberta", POSITIONS - 2)])
def test_the_longest_text_is_the_one_that_the_positions_allow(kind: str, longest: int, tmp_path: Path):
    model, given = encoder_classifier(kind), batch(2, longest)
    export_onnx(model, SINGLE, tmp_path / "model.onnx")
    file = session(tmp_path / "model.onnx")
    with torch.inference_mode():
        np.testing.assert_allclose(logits(file, given), model(**given).numpy(), atol=TOLERANCE)
    with pytest.raises(Exception, match="(?i)invalid|fail|out of"):
        logits(file, batch(2, longest + 1))


def test_the_file_is_whole_in_itself(tmp_path: Path):
    export_onnx(encoder_classifier(), SINGLE, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_a_file_that_answers_unlike_the_model_is_refused(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if the exporter had translated one operation wrongly."""
    honest = torch.onnx.export

    def tampering(model: torch.nn.Module, arguments: tuple[Any, ...], file: str, **options: Any) -> None:
        honest(model, arguments, file, **options)
        written = onnx.load(file)
        head = next(each for each in written.graph.initializer if each.name == "head.bias")
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + np.float32(wrong), head.name))
        onnx.save(written, file)

    monkeypatch.setattr(torch.onnx, "export", tampering)
    with pytest.raises(JobError, match="differs from the model by (0.5|nan) in a logit"):
        export_onnx(encoder_classifier(), SINGLE, tmp_path / "model.onnx")


def test_exporting_says_nothing_and_leaves_logging_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    before: Sequence[int] = (logging.root.manager.disable, logging.root.level)
    export_onnx(encoder_classifier(), SINGLE, tmp_path / "model.onnx")
    assert (logging.root.manager.disable, logging.root.level) == before
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
