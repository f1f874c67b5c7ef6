from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.compression.export.onnx import export_onnx
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import layers_of
from jobs.models.sharing import first_names, share_layers
from jobs.models.student import encoder_student
from tests.tiny.graph import in_8_bits
from tests.tiny.models import batch, encoder_classifier


def student(kind: str = "bert", layers: int = 3, teacher_layers: int = 3) -> EncoderClassifier:
    spec = StudentSpec(layers=layers, share_layers=True)
    return encoder_student(encoder_classifier(kind, teacher_layers), spec).eval()


def logits(model: EncoderClassifier) -> Tensor:
    with torch.inference_mode():
        return model(**batch(4, 11))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_layers_that_are_one_answer_like_copies_of_the_first(kind: str):
    shared, teacher = student(kind), encoder_classifier(kind, 3)
    first = layers_of(teacher.encoder)[0].state_dict()
    for layer in layers_of(teacher.encoder):
        layer.load_state_dict(first)
    assert torch.equal(logits(shared), logits(teacher))
    weights = sum(weight.numel() for weight in shared.parameters())
    assert weights == sum(each.numel() for each in teacher.parameters()) - 2 * sum(
        each.numel() for each in first.values()
    )


def test_a_new_student_shares_too_and_learns_in_all_places_at_once():
    model = encoder_student(encoder_classifier(), StudentSpec(kind="new", layers=2, share_layers=True))
    one, other = layers_of(model.encoder)
    assert one is other
    model(**batch(4, 9)).square().sum().backward()
    assert all(weight.grad is not None for weight in one.parameters())


@pytest.mark.parametrize("kind", ["layers", "new"])
def test_a_student_of_a_teacher_that_shares_has_layers_of_its_own(kind: Any, tmp_path: Path):
    teacher = student()
    learner = encoder_student(teacher, StudentSpec(kind=kind, layers=2, share_layers=False))
    one, other = layers_of(learner.encoder)
    assert one is not other
    encoder.save(learner, tmp_path)
    assert len(set(layers_of(encoder.load(tmp_path).encoder))) == 2
    assert len(set(layers_of(encoder_student(teacher, StudentSpec(layers=2, share_layers=True)).encoder))) == 1


def test_shared_weights_are_stored_once_and_reload(tmp_path: Path):
    model = student()
    encoder.save(model, tmp_path)
    with safe_open(tmp_path / encoder.WEIGHTS, framework="numpy") as file:
        names = set(file.keys())
    assert names == set(first_names(model).values())
    assert not [name for name in names if ".layer.1." in name]
    again = encoder.load(tmp_path)
    assert len(set(layers_of(again.encoder))) == 1 < len(layers_of(again.encoder))
    assert torch.equal(logits(again), logits(model))


def test_a_file_that_lacks_a_shared_weight_is_not_loaded(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    encoder.save(student(), tmp_path)
    weights = load_file(tmp_path / encoder.WEIGHTS)
    del weights["encoder.encoder.layer.0.output.dense.bias"]
    save_file(weights, tmp_path / encoder.WEIGHTS)
    with pytest.raises(RuntimeError, match=r"layer\.0\.output\.dense\.bias"):
        encoder.load(tmp_path)


@pytest.mark.slow
def test_an_exported_file_holds_shared_weights_once_also_in_8_bits(tmp_path: Path):
    model = student()
    export_onnx(model, ("input_ids", "attention_mask"), tmp_path / "0.onnx")
    in_8_bits(tmp_path / "0.onnx", tmp_path / "1.onnx")
    for file, one in (("0.onnx", [32, 64]), ("1.onnx", [32, 64])):
        stored = [list(each.dims) for each in onnx.load(tmp_path / file).graph.initializer]
        assert stored.count(one) == 1
        assert stored.count([32, 96]) == 1


def test_layers_that_are_not_alike_are_not_shared():
    with pytest.raises(UsageError, match="layers of 'modernbert' models are not alike"):
        share_layers(encoder_classifier("modernbert").encoder)
