"""OpenVINO: classifiers as IR, an XML file of the graph and a .bin file of the weights beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from serving.bundle import Bundle
from serving.runtimes import check_graph

if TYPE_CHECKING:
    import numpy as np


def import_openvino() -> ModuleType:
    """The library without its telemetry, which would report every import to its makers unless told otherwise."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - None: not to be found
    import openvino

    return openvino


class OpenvinoModel:
    """A compiled model with one request: one call at a time."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def logits(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [B, C] of int64 inputs [B, L]."""
        self._request.infer(dict(feed), share_inputs=True)
        return self._request.get_tensor("logits").data.copy()  # the next call writes to the same memory


def open_model(folder: Path, bundle: Bundle, threads: int) -> OpenvinoModel:
    """Raises `BundleError` where the graph is not what the manifest says, else what OpenVINO raises."""
    compiled = compile_file(folder / bundle.model, bundle.precision, threads)
    inputs, outputs = ([each.any_name for each in ends] for ends in (compiled.inputs, compiled.outputs))
    check_graph(folder / bundle.model, bundle, inputs, outputs)
    return OpenvinoModel(compiled)


def compile_file(file: Path, precision: str, threads: int) -> Any:
    """An IR on the CPU, for the least latency of one request at a time.

    The precision is always given: by default the CPU plugin takes bf16 where the CPU has it, and answers change.
    """
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # replicas would all choose the same cores; a measurement pins its process
    }
    return import_openvino().Core().compile_model(str(file), "CPU", config)


def open_file(file: Path, precision: str, threads: int) -> OpenvinoModel:
    """An exported file, before it is a bundle."""
    return OpenvinoModel(compile_file(file, precision, threads))


def computes(precision: str) -> bool:
    """Whether this CPU has the instructions of bf16 or f16."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"bf16": "BF16", "f16": "FP16"}[precision] in capabilities
