from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from configs.schema.compression import FoldSpec
from jobs.compression.export.onnx import export_onnx
from jobs.compression.steps.fold import fold
from jobs.models import encoder
from jobs.models.conv import ConvBlock, ConvConfig
from jobs.models.encoder import EncoderClassifier
from jobs.training.masks import release
from jobs.training.quantize_aware import calibrate, learn_rounded, rounded_within
from tests.tiny.graph import in_8_bits
from tests.tiny.models import CLASSES, VOCABULARY, batch, encoder_classifier
from tests.tiny.workplace import Alone

INPUTS = ["input_ids", "attention_mask"]


def runtime(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Tensor], given: np.ndarray, folder: Path
) -> np.ndarray:
    """What ONNX Runtime's int8 form of a graph, from `given` to `made`, says."""
    kind = TensorProto.INT64 if given.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("given", kind, given.shape)],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight.detach().numpy(), name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "0.onnx")
    in_8_bits(folder / "0.onnx", folder / "1.onnx", [{"given": given}])
    session = onnxruntime.InferenceSession(folder / "1.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["made"], {"given": given})[0])


def assert_rounded_alike(layer: nn.Module, given: Tensor, expected: np.ndarray) -> None:
    """Nearly everywhere to the last bits; where a number lies between two steps either may be taken."""
    with torch.inference_mode():
        plain = layer(given)
        learn_rounded(layer)
        calibrate(nn.Sequential(layer), [{"input": given}])
        rounded = layer(given)
    error = np.abs(plain.numpy() - expected)
    assert error.max() > 1e-3
    assert np.abs(rounded.numpy() - expected).mean() < 0.01 * error.mean()


def uneven(layer: nn.Module) -> nn.Module:
    """Its outputs, or rows, differ a hundredfold."""
    with torch.no_grad():
        weight = layer.get_parameter("weight")
        weight.mul_(torch.logspace(-1, 1, len(weight)).view(-1, *[1] * (weight.ndim - 1)))
    return layer


@pytest.mark.parametrize("shift", [0.0, 5.0], ids=["both signs", "positive"])
def test_a_linear_layer_is_rounded_as_the_runtime_does(tmp_path: Path, shift: float):
    torch.manual_seed(0)
    layer, given = uneven(nn.Linear(24, 10)), torch.randn(3, 7, 24) + shift
    nodes = [helper.make_node("MatMul", ["given", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["made"])]
    weights = {"w": layer.get_parameter("weight").T.contiguous(), "b": layer.get_parameter("bias")}
    assert_rounded_alike(layer, given, runtime(nodes, weights, given.numpy(), tmp_path))


@pytest.mark.parametrize("norms", ["beside", "folded"])
def test_convolutions_are_rounded_as_in_the_exported_int8_file(tmp_path: Path, norms: str):
    """A norm may turn the sign of an output."""
    model = convolutions()
    made = fold(model, FoldSpec(step="fold"), Alone()) if norms == "folded" else model
    export_onnx(made, INPUTS, tmp_path / "0.onnx")
    rows = [batch(5, 24, seed) for seed in range(4)]
    fed = [{name: each.numpy() for name, each in row.items()} for row in rows]
    in_8_bits(tmp_path / "0.onnx", tmp_path / "1.onnx", fed)
    session = onnxruntime.InferenceSession(tmp_path / "1.onnx", providers=["CPUExecutionProvider"])
    said = [np.asarray(session.run(["logits"], each)[0]) for each in fed]
    with torch.inference_mode():
        plain = [model(**row).numpy() for row in rows]
        learn_rounded(model)
        calibrate(model, rows)
        rounded = [model(**row).numpy() for row in rows]
    assert np.abs(np.subtract(plain, said)).mean() > 1e-3
    assert np.median(np.abs(np.subtract(rounded, said)).max(2)) < 1e-5


def convolutions() -> EncoderClassifier:
    """A student whose channels differ as training leaves them."""
    torch.manual_seed(0)
    config = ConvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)
    model = encoder.from_config(config, "mean", CLASSES, 0.0).eval()
    for block in model.modules():
        if isinstance(block, ConvBlock):
            uneven(block.conv)
            nn.init.uniform_(block.norm.weight, -3, 3)
            block.norm.running_var.copy_(block.conv.weight.detach().flatten(1).square().sum(1) + 0.01)
            block.norm.running_mean.normal_(0, 0.1)
    return model


def test_embeddings_are_rounded_as_the_runtime_does(tmp_path: Path):
    torch.manual_seed(0)
    layer, given = uneven(nn.Embedding(40, 8)), torch.arange(12).view(2, 6)
    nodes = [helper.make_node("Gather", ["w", "given"], ["made"])]
    weights = {"w": layer.get_parameter("weight")}
    assert_rounded_alike(layer, given, runtime(nodes, weights, given.numpy(), tmp_path))


def test_the_gradient_goes_straight_through():
    """To each factor it is the other one, rounded."""
    torch.manual_seed(0)
    layer, given = nn.Linear(4, 3), torch.randn(5, 4, requires_grad=True)
    learn_rounded(layer)
    calibrate(nn.Sequential(layer), [{"input": given}])
    layer(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, layer.weight.detach().sum(0).expand(5, 4))
    stored = layer.get_parameter("parametrizations.weight.original")
    assert stored.grad is not None
    torch.testing.assert_close(
        stored.grad, rounded_within(given, *given.detach().aminmax()).detach().sum(0).expand(3, 4)
    )


def test_what_is_beyond_its_range_is_cut_and_gets_no_gradient():
    layer, given = nn.Linear(2, 1, bias=False), torch.tensor([[0.5, 3.0]], requires_grad=True)
    nn.init.ones_(layer.weight)
    learn_rounded(layer)
    calibrate(nn.Sequential(layer), [{"input": torch.tensor([[-1.0, 0.2]])}, {"input": torch.tensor([[1.0, 0.0]])}])
    layer(given).sum().backward()
    assert layer(given).item() == pytest.approx(1.5, abs=0.01)
    assert given.grad is not None
    assert given.grad.tolist() == [[1, 0]]


def test_a_row_is_rounded_alike_alone_and_among_others():
    model = encoder_classifier(layers=1)
    learn_rounded(model)
    rows = batch(20, 16)
    calibrate(model, [batch(20, 16, seed=1)])
    with torch.inference_mode():
        together_NC = model(**rows)
        alone_NC = torch.cat([model(**{name: each[[row]] for name, each in rows.items()}) for row in range(20)])
    torch.testing.assert_close(alone_NC, together_NC, atol=1e-3, rtol=0)


def test_a_tensor_of_zeros_stays_one():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    learn_rounded(layer)
    calibrate(nn.Sequential(layer), [{"input": torch.zeros(2, 4)}])
    torch.testing.assert_close(layer(torch.zeros(2, 4)), layer.bias.expand(2, 3))


def test_a_released_model_has_its_float_weights_back():
    model = encoder_classifier(layers=1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    learn_rounded(model)
    calibrate(model, [batch(2, 9)])
    assert model.state_dict().keys() != before.keys()
    with torch.inference_mode():
        model(**batch(2, 9))
    release(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
