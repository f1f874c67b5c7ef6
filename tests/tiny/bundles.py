"""A classifier small enough to build in a test: the mean of its tokens' embeddings, then a linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from serving.bundle import Bundle, write_bundle
from serving.runtimes.openvino import import_openvino

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "where", "is", "my", "order", "refund", "please", "cancel", "it", "now"]
LABELS = ["track", "refund", "cancel"]


def write_tiny_bundle(folder: Path, seed: int = 0, pairs: bool = False, **fields: Any) -> Bundle:
    """A bundle of random weights (those of `seed`) that runs in onnxruntime, or in openvino where `fields` say so."""

    def fill(aside: Path) -> None:
        tokenizer(pairs).save(str(aside / "tokenizer.json"))
        graph = aside / "model.onnx"
        onnx.save(mean_of_embeddings(seed, pairs), str(graph))
        if fields.get("runtime") == "openvino":
            openvino = import_openvino()
            openvino.save_model(openvino.convert_model(graph), aside / "model.xml", compress_to_fp16=False)
            graph.unlink()

    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if pairs else [])]
    given: dict[str, Any] = {
        "name": "tiny",
        "task": "classify",
        "labels": LABELS,
        "runtime": "onnxruntime",
        "model": "model.xml" if fields.get("runtime") == "openvino" else "model.onnx",
        "inputs": inputs,
        "max_length": 12,
        "pairs": pairs,
        "metrics": {"accuracy": 0.9},
    }
    return write_bundle(folder, {**given, **fields}, fill)


def decoder_description(**fields: Any) -> Bundle:
    """What the manifest of a decoder's bundle says; there are no files."""
    given: dict[str, Any] = {"runtime": "ctranslate2", "model": "model.bin", "inputs": ["input_ids"], "max_length": 6}
    return Bundle(name="tiny", task="generate", **{**given, **fields})


def tokenizer(pairs: bool) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if pairs else None,
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def mean_of_embeddings(seed: int, pairs: bool) -> onnx.ModelProto:
    weights = reference_weights(seed)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if pairs else [])]
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_1"]),
        helper.make_node("ReduceSum", ["mask", "last"], ["count"], keepdims=1),
    ]
    if pairs:  # the second text counts with the sign of a second table
        nodes += [
            helper.make_node("Gather", ["types", "token_type_ids"], ["typed"]),
            helper.make_node("Mul", ["embedded", "typed"], ["tokens"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["embedded"], ["tokens"]))
    nodes += [
        helper.make_node("Mul", ["tokens", "mask_1"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "linear"], ["logits"]),
    ]
    constants = {**weights, "last": np.array([-1]), "middle": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def reference_weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "embedding": random.normal(size=(len(WORDS), 8)).astype(np.float32),
        "types": np.array([[1.0] * 8, [-1.0] * 8], dtype=np.float32),
        "linear": random.normal(size=(8, len(LABELS))).astype(np.float32) * 3,
    }
