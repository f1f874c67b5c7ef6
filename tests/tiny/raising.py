"""A classifier whose model raises at one word."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from serving.bundle import write_bundle
from tests.tiny.bundles import LABELS, WORDS, mean_of_embeddings, tokenizer

RAISES = "crash"  # its number has no row in the model's table


def write_raising_bundle(folder: Path) -> None:
    """Like `write_tiny_bundle`, with one word more."""

    def fill(aside: Path) -> None:
        told = json.loads(tokenizer(pairs=False).to_str())
        told["model"]["vocab"][RAISES] = len(WORDS)
        (aside / "tokenizer.json").write_text(json.dumps(told))
        onnx.save(mean_of_embeddings(0, pairs=False), str(aside / "model.onnx"))

    given = {"name": "raises", "task": "classify", "labels": LABELS, "runtime": "onnxruntime", "model": "model.onnx"}
    write_bundle(folder, {**given, "inputs": ["input_ids", "attention_mask"], "max_length": 12}, fill)
