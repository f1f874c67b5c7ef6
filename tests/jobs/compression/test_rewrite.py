from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.schema.models import StudentSpec
from jobs.compression.export.onnx import export_onnx
from jobs.compression.int8 import layers, read
from jobs.compression.rewrite import for_export
from jobs.models.encoder import EncoderClassifier
from jobs.models.student import encoder_student
from tests.tiny.models import batch, encoder_classifier


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_the_rewritten_encoder_is_the_same_function(kind: str, pooling: str):
    model = encoder_classifier(kind, pooling=pooling)
    given = batch(4, 12)
    with torch.inference_mode():
        torch.testing.assert_close(for_export(model)(**given), model(**given), rtol=1e-4, atol=1e-5)


def test_second_texts_keep_their_type():
    model = encoder_classifier("bert")
    given = batch(3, 9)
    types = (torch.arange(9) >= 4).long().repeat(3, 1)
    with torch.inference_mode():
        answer = for_export(model)(**given, token_type_ids=types)
        torch.testing.assert_close(answer, model(**given, token_type_ids=types), rtol=1e-4, atol=1e-5)
        assert (answer - for_export(model)(**given)).abs().max() > 1e-3


def test_the_model_itself_stays_as_it_was():
    model = encoder_classifier("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for_export(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_queries_keys_and_values_are_one_product():
    modules = for_export(encoder_classifier("bert", layers=1)).modules()
    widths = [each.out_features for each in modules if isinstance(each, torch.nn.Linear)]
    assert widths[0] == 3 * 32


def test_a_single_text_has_no_type_to_look_up():
    model: Any = encoder_classifier("bert", layers=1)
    rewritten: Any = for_export(model)
    assert not rewritten.model.encoder.embeddings.token_type_embeddings.weight[0].any()
    assert model.encoder.embeddings.token_type_embeddings.weight[0].all()


def test_a_graded_encoder_keeps_its_grades():
    model = EncoderClassifier(encoder_classifier("bert").encoder, "mean", [1.0, 2.0, 4.0]).eval()
    given = batch(4, 12)
    with torch.inference_mode():
        torch.testing.assert_close(for_export(model)(**given), model(**given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_other_encoders_are_exported_as_they_are(kind: str):
    model = encoder_classifier(kind)
    assert for_export(model) is model


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_an_exported_convolution_is_a_product_that_quantises(tmp_path: Path, kernel: int):
    spec = StudentSpec(kind="conv", layers=2, hidden=16, kernel=kernel)
    model = encoder_student(encoder_classifier(), spec).eval()
    export_onnx(model, ["input_ids", "attention_mask"], tmp_path / "model.onnx")  # raises where it differs
    made = read(tmp_path / "model.onnx")
    assert "Conv" not in {node.op_type for node in made.graph.node}
    assert len(layers(made)) >= 3  # two convolutions and the head
