"""Int8 with ONNX Runtime: weights and embeddings stored in 8 bits, activations scaled while it runs."""

from __future__ import annotations

import logging
from pathlib import Path

from jobs.compression.spec import QuantizeSpec


def quantize(file: Path, spec: QuantizeSpec, made: Path) -> None:
    """Write `made`, the int8 form of the ONNX `file`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(file))
    del model.graph.value_info[:]  # shapes that the exporter noted; the quantiser's own inference trips over them
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises pre-processing, which changes nothing for these graphs
    try:
        quantize_dynamic(model, str(made), per_channel=spec.per_channel, weight_type=QuantType.QInt8)
    finally:
        logging.root.setLevel(level)
