"""A model's service as LitServe is documented to serve one, with batches of several requests, for `benchmarks.serving`.

python -m benchmarks._litserve <bundle> <port>
"""

from __future__ import annotations

import sys
from typing import Any

import litserve  # pyright: ignore[reportMissingImports] - installed by the benchmark, beside the environment

from benchmarks._bare import LARGEST, SERVICE
from serving.runtime import load_bundle


class Api(litserve.LitAPI):
    """Holds the classifier; LitServe makes a batch of requests that wait, each a list of inputs."""

    def setup(self, device: str) -> None:
        """Called in the process that answers."""
        self.classifier = load_bundle(sys.argv[1])

    def decode_request(self, request):  # LitServe hands on the body as it stands where no type is given
        """The inputs of one request."""
        return request["inputs"]

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Lists stay lists; the default makes an array of numbers."""
        return inputs

    def predict(self, x: list[list[str]]) -> list[list[dict[str, Any]]]:
        """The predictions of each request."""
        predictions = iter(self.classifier.predict([text for inputs in x for text in inputs]))
        return [[dict(next(predictions)) for _ in inputs] for inputs in x]

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        """One for each request."""
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        """The body of one answer."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Api(max_batch_size=LARGEST, batch_timeout=0, api_path=f"/v1/{SERVICE}")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run("127.0.0.1", int(sys.argv[2]), num_api_servers=1, log_level="warning", generate_client_file=False)
