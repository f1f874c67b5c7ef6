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
from torch.nn.utils.fusion import fuse_conv_bn_eval

from jobs.models.conv import ConvBlock
from jobs.training.rounding import learn_rounded, rounded_like
from jobs.training.zeros import release
from tests.tiny_graph import in_8_bits
from tests.tiny_models import batch, encoder_classifier


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
    in_8_bits(folder / "0.onnx", folder / "1.onnx")
    session = onnxruntime.InferenceSession(folder / "1.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["made"], {"given": given})[0])


def assert_rounded_alike(layer: nn.Module, given: Tensor, expected: np.ndarray) -> None:
    """Nearly everywhere to the last bits; where a number lies between two steps either may be taken."""
    with torch.inference_mode():
        plain = layer(given)
        learn_rounded(layer)
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


def test_a_convolution_is_rounded_as_the_runtime_does(tmp_path: Path):
    torch.manual_seed(0)
    layer, given = uneven(nn.Conv1d(6, 4, 3, padding=1, bias=False)), torch.randn(2, 6, 9)
    nodes = [helper.make_node("Conv", ["given", "w"], ["made"], kernel_shape=[3], pads=[1, 1])]
    weights = {"w": layer.get_parameter("weight")}
    assert_rounded_alike(layer, given, runtime(nodes, weights, given.numpy(), tmp_path))


class Block(nn.Module):
    """A convolution, its norm and what it is added to, of rows without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.block = ConvBlock(6, 3)
        norm = self.block.norm
        assert norm.running_var is not None
        assert norm.running_mean is not None
        nn.init.uniform_(norm.weight, -3, 3)
        norm.running_var.uniform_(0.1, 3)
        norm.running_mean.normal_()

    def forward(self, given: Tensor) -> Tensor:
        return self.block(given, torch.ones(len(given), given.shape[2]))


def test_a_convolution_is_rounded_with_the_norm_that_the_exporter_folds_into_it(tmp_path: Path):
    torch.manual_seed(0)
    layer, given = Block().eval(), torch.randn(2, 6, 9)
    conv = fuse_conv_bn_eval(layer.block.conv, layer.block.norm)
    nodes = [
        helper.make_node("Conv", ["given", "w", "b"], ["c"], kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "given"], ["made"]),
    ]
    assert conv.bias is not None
    assert_rounded_alike(layer, given, runtime(nodes, {"w": conv.weight, "b": conv.bias}, given.numpy(), tmp_path))


def test_embeddings_are_rounded_as_the_runtime_does(tmp_path: Path):
    """By the range of the whole table, of which the rows that are looked up here have a small part."""
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
    layer(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, layer.weight.detach().sum(0).expand(5, 4))
    stored = layer.get_parameter("parametrizations.weight.original")
    assert stored.grad is not None
    torch.testing.assert_close(stored.grad, rounded_like(given, given).detach().sum(0).expand(3, 4))


def test_a_tensor_of_zeros_stays_one():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    learn_rounded(layer)
    torch.testing.assert_close(layer(torch.zeros(2, 4)), layer.bias.expand(2, 3))


def test_a_released_model_has_its_float_weights_back():
    model = encoder_classifier(layers=1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    learn_rounded(model)
    assert model.state_dict().keys() != before.keys()
    with torch.inference_mode():
        model(**batch(2, 9))
    release(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
