"""The HTTP of a service around its model in one uvicorn and nothing else: no Ray, no batches of several requests.

python -m benchmarks._bare <bundle> <port>
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from configs.schema.serving import ServingSpec
from serving.endpoint import create_app
from serving.labelling import LabelQuestion
from serving.questions import read_question
from serving.runtime import load_bundle
from serving.service import Answer, Caller, Route

SERVICE = "small"  # POST /v1/<it>, of every side
LARGEST = 32  # inputs that a side answers together, where it makes batches of several requests


class Bare:
    """See `serving.service.InService`."""

    def __init__(self, bundle: Path) -> None:
        self._classifier = load_bundle(bundle)
        self._most = ServingSpec.model_validate({}).max_inputs
        self._model = {"name": self._classifier.bundle.name, "version": "1"}

    @property
    def routes(self) -> Mapping[str, Route]:
        """The service itself."""
        return {"": self._answer}

    def running_s(self) -> float:
        """Nothing runs beside a request."""
        return 0.0

    async def _answer(self, body: bytes, _: Caller) -> Answer:
        question = read_question(body, LabelQuestion, self._most)
        predictions = self._classifier.predict(question.inputs, question.scores, question.details)
        return {"model": self._model, "predictions": predictions}


def main(bundle: Path, port: int) -> None:
    """Answer on loopback until the process is ended."""
    model = Bare(bundle)
    app = create_app(SERVICE, ServingSpec.model_validate({}), lambda: model)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
