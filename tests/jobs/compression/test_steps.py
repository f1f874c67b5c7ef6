from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from cluster import quiet
from jobs.compression import steps
from jobs.compression.spec import DistillStep, ExportStep, PruneSpec, QuantizeSpec
from tests.jobs.compression.alone import Alone


def test_no_step_works_beside_a_measurement_but_one_that_waits_for_them_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its workers would wait for a measurement that waits for the step."""
    at_work: list[bool] = []
    seen: dict[str, bool] = {}

    @contextlib.contextmanager
    def enter():
        at_work.append(True)
        yield
        at_work.pop()

    def doing(named: str) -> Any:
        return lambda *_: seen.update({named.rpartition(":")[2]: bool(at_work)})

    monkeypatch.setattr(quiet, "at_work", enter)
    monkeypatch.setattr(steps, "_function", doing)
    specs = [
        PruneSpec(step="prune"),
        DistillStep(step="distill"),
        ExportStep(step="export"),
        QuantizeSpec(step="quantize"),
    ]
    workplace = Alone(folder=tmp_path, judged=False)
    model: Any = None
    made = steps.compress(model, specs, workplace, ["onnxruntime"]).files["onnxruntime"]
    assert made == (tmp_path / "onnxruntime" / "0.onnx", tmp_path / "onnxruntime" / "1.onnx")
    assert seen == {"prune": True, "distill_further": False, "export": True, "quantize": True}
