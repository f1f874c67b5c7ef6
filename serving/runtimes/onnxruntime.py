"""ONNX Runtime: classifiers as one ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serving.bundle import Bundle
from serving.runtimes import check_graph

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession


class OnnxModel:
    """A session on the CPU."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    def logits(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [B, C] of int64 inputs [B, L]."""
        import numpy as np

        return np.asarray(self._session.run(["logits"], dict(feed))[0])


def open_model(folder: Path, bundle: Bundle, threads: int) -> OnnxModel:
    """Raises `BundleError` where the graph is not what the manifest says, else what ONNX Runtime raises."""
    session = open_session(folder / bundle.model, threads)
    inputs, outputs = ([each.name for each in ends] for ends in (session.get_inputs(), session.get_outputs()))
    check_graph(folder / bundle.model, bundle, inputs, outputs)
    return OnnxModel(session)


def open_session(file: Path, threads: int) -> InferenceSession:
    """An ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Idle threads sleep: replicas, the proxy and training share the cores, and a spinning thread takes one whole.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), sess_options=options, providers=["CPUExecutionProvider"])


def open_file(file: Path, _: str, threads: int) -> OnnxModel:
    """An exported file, before it is a bundle."""
    return OnnxModel(open_session(file, threads))
