from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import quiet
from cluster.session import JobError
from configs.schema.compression import DistillStep, ExportStep, PruneSpec, QuantizeSpec
from jobs.compression import apply
from jobs.compression.checks import step_loss
from jobs.compression.checks.metric import StepMetric
from tests.tiny.workplace import Alone


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
    monkeypatch.setattr(apply, "named", doing)
    specs = [
        PruneSpec(step="prune"),
        DistillStep(step="distill"),
        ExportStep(step="export"),
        QuantizeSpec(step="quantize"),
    ]
    workplace = Alone(folder=tmp_path, judged=False)
    model: Any = None
    made = apply.compress(model, specs, workplace, ["onnxruntime"]).files["onnxruntime"]
    assert made == (tmp_path / "onnxruntime" / "0.onnx", tmp_path / "onnxruntime" / "1.onnx", {})
    assert seen == {"prune": True, "distill_further": False, "export": True, "quantize": True}


@pytest.mark.parametrize("lost", [{"openvino"}, {"onnxruntime"}, {"onnxruntime", "openvino"}], ids=str)
def test_each_runtime_is_judged_from_the_exported_model_on_and_has_facts_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: set[str]
):
    """The metrics are made up: a file of a runtime that loses has 0.5 after the step."""

    def metric(model: Any) -> float:
        return 0.5 if isinstance(model, Path) and model.stem == "1" and model.parent.name in lost else 0.9

    monkeypatch.setattr(
        step_loss, "step_metric", lambda *_, **__: StepMetric("accuracy", 60, metric, lambda _: np.zeros(0))
    )
    monkeypatch.setattr(apply, "named", lambda _: lambda *_: None)
    specs = [ExportStep(step="export", max_loss=1), QuantizeSpec(step="quantize", max_loss=0.1)]
    model: Any = None
    made = apply.compress(model, specs, Alone(folder=tmp_path, judged=True), ["onnxruntime", "openvino"])
    assert made.left_out.keys() == lost
    assert made.files.keys() == {"onnxruntime", "openvino"} - lost
    for exported in made.files.values():
        assert exported.facts["quantize"] == {"before": 0.9, "after": 0.9, "rows": 60}
    for runtime in lost:
        (alone := tmp_path / f"alone-{runtime}").mkdir()
        with pytest.raises(JobError, match=r"'quantize' lowers validation accuracy from 0\.9 to 0\.5"):
            apply.compress(model, specs, Alone(folder=alone, judged=True), [runtime])
