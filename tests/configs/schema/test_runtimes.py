from __future__ import annotations

import re
from typing import Any

import pytest

from configs.schema.recipe import Recipe
from configs.schema.runtimes import ExportTarget, export_targets


def recipe(task: str = "classify", steps: list[dict[str, Any]] | None = None, **export: Any) -> Recipe:
    steps = steps or [{"step": "export"}, {"step": "quantize"}]
    return Recipe.model_validate({"name": "x", "task": task, "compression": steps, "export": export})


def found(given: Recipe) -> list[tuple[str, ...]]:
    return [tuple(form) for form in export_targets(given.export, given.task, given.compression)]


def test_without_a_word_a_task_has_its_usual_runtime():
    assert found(recipe()) == [("onnxruntime", "f32")]
    assert found(recipe("generate")) == [("ctranslate2", "f32")]


def test_auto_tries_every_runtime_of_the_task_in_f32_and_bf16():
    assert found(recipe(runtime="auto")) == [("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16")]
    assert found(recipe(runtime="auto", precision="bf16")) == [ExportTarget("openvino", "bf16")]
    assert found(recipe("generate", runtime="auto")) == [("ctranslate2", "f32")]


def test_auto_leaves_out_a_runtime_to_which_an_option_means_nothing():
    steps: list[dict[str, Any]] = [{"step": "export"}, {"step": "quantize", "per_channel": False}]
    assert found(recipe(steps=steps, runtime="auto")) == [("onnxruntime", "f32")]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"runtime": "ctranslate2"},
            "export.runtime: 'ctranslate2': does not run task 'classify'; use onnxruntime or openvino",
        ),
        ({"task": "generate", "runtime": "openvino"}, "does not run task 'generate'; use ctranslate2"),
        ({"precision": "bf16"}, "export.precision: 'bf16': onnxruntime computes in f32"),
        ({"task": "generate", "precision": "f16"}, "export.precision: 'f16': ctranslate2 computes in f32 or bf16"),
        (
            {"runtime": "openvino", "steps": [{"step": "export"}, {"step": "quantize", "per_channel": False}]},
            "compression[1].per_channel: False: means nothing to openvino; leave it out",
        ),
        (
            {"runtime": "openvino", "steps": [{"step": "export"}, {"step": "quantize", "tokens": True}]},
            "compression[1].tokens: True: means nothing to openvino; leave it out",
        ),
        (
            {"runtime": "onnxruntime", "steps": [{"step": "export"}, {"step": "quantize", "tokens": True}]},
            "compression[1].tokens: True: means nothing to onnxruntime; leave it out",
        ),
        (
            {"task": "generate", "steps": [{"step": "export"}, {"step": "quantize", "tokens": True, "bits": 4}]},
            "tokens=true: with bits=4 they stay in float; leave it out, or take bits=8",
        ),
        ({"parity": 1.5}, "parity"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(given: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        recipe(**given)
