"""The tasks there are. A new one is a file beside this, one in jobs/training, and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """What jobs ask of a task; functions and classes are named "module:name" and imported when they are used."""

    metric: str  # on validation and test rows: what budgets, retention and the choice of a winner go by
    shown: tuple[str, ...]  # further metrics of the comparison
    score: str  # (predictions, rows) -> metrics by name
    statistics: str  # (predictions, rows) -> [N, S], of whose sums over rows ...
    value: str  # ... sums [S] -> the metric follows: what a bootstrap over rows needs
    training: str  # the `jobs.training.task.TrainingTask` that workers make


TASKS = {
    "classify": Task(
        "accuracy",
        ("macro_f1", "agreement", "ece"),
        "jobs.tasks.classify:score",
        "jobs.tasks.classify:statistics",
        "jobs.tasks.classify:value",
        "jobs.training.classify:Classify",
    ),
    "generate": Task(
        "bleu",
        ("rouge_l", "slot_error_rate"),
        "jobs.tasks.generate:score",
        "jobs.tasks.generate:statistics",
        "jobs.tasks.generate:value",
        "jobs.training.generate:Generate",
    ),
}


def named(text: str) -> Any:
    """What `text`, "module:name", stands for."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)
