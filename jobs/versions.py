"""What the result of a stage depends on beside its inputs: the version of its behaviour, and of the libraries that do
its sums.

A number is raised where the same inputs now give another result; what was made before is then made once more. A tiny
result of each stage is kept in tests/jobs/results.json, and tests/jobs/test_versions.py fails where one changed and its
number did not. Code that is moved or worded otherwise raises none.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any, NamedTuple

from configs.schema.runtimes import RUNTIMES, package


class Behaviour(NamedTuple):
    """How a stage behaves: a version of ours, and the libraries that do its sums."""

    version: int
    libraries: tuple[str, ...]  # by the names that they are installed under


ENGINES = sorted(package(name) for name, runtime in RUNTIMES.items() if runtime.precisions)
STAGES = {
    "prepare": Behaviour(5, ("regex", "tokenizers")),  # the prepared rows
    "pool": Behaviour(3, ("numpy", "regex", "tokenizers")),  # rows without labels, made of others
    "finetune": Behaviour(2, ("deepspeed", "numpy", "peft", "torch", "transformers")),  # the teacher
    "teach": Behaviour(3, ("numpy", "torch", "transformers")),  # what teachers say of rows
    "distill": Behaviour(3, ("deepspeed", "numpy", "peft", "torch", "transformers")),  # the student
    "compress": Behaviour(1, (*ENGINES, "nncf", "numpy", "onnx", "onnxscript", "torch", "transformers")),  # the bundle
    "measure": Behaviour(4, (*ENGINES, "numpy", "regex", "sacrebleu", "scikit-learn")),  # metrics and latency of a file
    "search": Behaviour(1, ("hyperopt", "ray")),  # what is tried
    "choose": Behaviour(1, ()),  # which trial wins
    "baselines": Behaviour(3, ("numpy", "onnxruntime", "regex", "scikit-learn", "tokenizers")),  # their bundles
    "evaluate": Behaviour(3, ("numpy", "scikit-learn", "torch", "transformers")),  # the comparison on test rows
    "cascade": Behaviour(2, ("numpy",)),  # temperatures and threshold
    "reply": Behaviour(1, ("numpy", "regex", "rouge-score", "sacrebleu", "scikit-learn")),  # templates and threshold
    "score": Behaviour(1, (*ENGINES, "numpy", "regex", "tokenizers")),  # answers to the rows of a file
}


def behaviour(*stages: str) -> dict[str, Any]:
    """The part of a key that says how `stages` behave, as JSON; nothing is imported for it."""
    return {"behaviour": {stage: [STAGES[stage].version, libraries(stage)] for stage in stages}}


def libraries(stage: str) -> dict[str, str | None]:
    """Installed version of each library of a stage; None of an extra that is not installed."""
    return {name: _installed(name) for name in STAGES[stage].libraries}


@functools.cache
def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
