"""The HTTP of a service around its model in one uvicorn and nothing else: no Ray, no batches of several requests.

python -m benchmarks._bare <bundle> <port>
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from configs.schema.serving import ServingSpec
from serving.endpoint import Answer, Question, create_app
from serving.runtime import load_bundle

SERVICE = "small"  # POST /v1/<it>, of every side


def main(bundle: Path, port: int) -> None:
    """Answer on loopback until the process is ended."""
    classifier = load_bundle(bundle)
    model = {"name": classifier.bundle.name, "version": "1"}

    async def answer(question: Question) -> Answer:
        return Answer(model, classifier.predict(question.inputs, question.scores, question.details))

    app = create_app(SERVICE, ServingSpec.model_validate({}), answer)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
