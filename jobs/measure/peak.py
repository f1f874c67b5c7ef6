"""What this CPU can do at most: the fastest large matrix product that numpy and ONNX Runtime get out of it.

python -m jobs.measure.peak < threads > answer.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from cluster import quiet
from jobs.measure.fresh import end_with_parent, pin, run_fresh

SIZE = 1024  # of square matrices: too large for the caches next to a core, small enough for milliseconds
SECONDS = 1.0


def ask(threads: int = 1) -> dict[str, float]:
    """`measure`, in a fresh process with its threads pinned, as everything it is compared with was."""
    return run_fresh("jobs.measure.peak", str(threads), threads, "the peak of this CPU")


def measure(threads: int, size: int = SIZE, seconds: float = SECONDS) -> dict[str, float]:
    """`fp32` and `int8`: 10^9 multiplications and additions a second of `threads` threads, the best call."""
    import numpy as np

    random = np.random.default_rng(0)
    float_MK, float_KN = (random.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    byte_MK = random.integers(0, 255, (size, size), dtype=np.uint8)
    byte_KN = random.integers(-127, 127, (size, size), dtype=np.int8)
    calls = {
        "fp32": [lambda: float_MK @ float_KN, _product("MatMul", float_MK, float_KN, threads)],
        "int8": [_product("MatMulInteger", byte_MK, byte_KN, threads)],
    }
    return {name: 2e-9 * size**3 / min(_fastest(call, seconds) for call in each) for name, each in calls.items()}


def _product(kind: str, a_MK: Any, b_KN: Any, threads: int) -> Callable[[], Any]:
    """A call of ONNX Runtime's product of A, given, and B, which the session holds and packs once."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    types = {"MatMul": (TensorProto.FLOAT, TensorProto.FLOAT), "MatMulInteger": (TensorProto.UINT8, TensorProto.INT32)}
    taken, made = types[kind]
    graph = helper.make_graph(
        [helper.make_node(kind, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", taken, a_MK.shape)],
        [helper.make_tensor_value_info("y", made, [a_MK.shape[0], b_KN.shape[1]])],
        [numpy_helper.from_array(b_KN, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], {"a": a_MK})


def _fastest(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest call within `seconds`."""
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    end_with_parent()
    asked = int(sys.stdin.read())
    pin(asked)
    with quiet.measuring("the peak of this CPU"):
        print(json.dumps(measure(asked)), flush=True)
