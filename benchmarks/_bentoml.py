"""A model's service as BentoML is documented to serve one, with batches of several requests, for `benchmarks.serving`.

python -m benchmarks._bentoml <bundle> <port>
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any

import bentoml  # pyright: ignore[reportMissingImports] - installed by the benchmark, beside the environment

from benchmarks._bare import LARGEST, SERVICE
from serving.runtime import load_bundle

BUNDLE = "SLIMCART_BENCHMARK_BUNDLE"  # environment: BentoML imports this module in processes of its own
WHOLE = {"batchable": True, "max_batch_size": LARGEST, "max_latency_ms": 60_000}


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Service:
    """Holds the classifier; BentoML makes a batch of inputs that wait."""

    def __init__(self) -> None:
        self._classifier = load_bundle(os.environ[BUNDLE])

    @bentoml.api(route=f"/v1/{SERVICE}", **WHOLE)
    def ask(self, inputs: list[str]) -> list[dict[str, Any]]:
        """A prediction for each input."""
        return [dict(each) for each in self._classifier.predict(inputs)]


if __name__ == "__main__":
    os.environ |= {BUNDLE: sys.argv[1], "BENTOML_DO_NOT_TRACK": "True"}
    sys.argv = ["bentoml", "serve", "benchmarks._bentoml:Service", "--host", "127.0.0.1", "--port", sys.argv[2]]
    runpy.run_module("bentoml", run_name="__main__")
