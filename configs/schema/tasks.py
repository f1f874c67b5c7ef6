"""The tasks there are. A new one is a file beside this, one in jobs/training, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Summed(NamedTuple):
    """How a metric follows from sums over rows: what a bootstrap over rows needs."""

    statistics: str  # (predictions, rows) -> [N, S], of whose sums over rows ...
    value: str  # ... sums [S] -> the metric follows


@dataclass(frozen=True)
class Task:
    """What jobs ask of a task; functions and classes are named "module:name" and imported when they are used."""

    metric: str  # on validation and test rows: what budgets, retention and the choice of a winner go by
    metrics: Mapping[str, Summed]  # what `metric` may be (budget.metric)
    shown: tuple[str, ...]  # further metrics of the comparison
    score: str  # (predictions, rows) -> metrics by name
    training: str  # the `jobs.training.task.TrainingTask` that workers make

    @property
    def summed(self) -> Summed:
        """How `metric` follows from sums over rows."""
        return self.metrics[self.metric]

    def by(self, metric: str | None) -> Task:
        """The same, with everything that goes by its metric going by `metric`; None: by its own."""
        if metric in (None, self.metric):
            return self
        shown = (self.metric, *(name for name in self.shown if name != metric))
        return replace(self, metric=metric, shown=shown)


TASKS = {
    "classify": Task(
        "accuracy",
        {
            "accuracy": Summed("jobs.tasks.classify:right", "jobs.tasks.classify:accuracy"),
            "macro_f1": Summed("jobs.tasks.classify:confusions", "jobs.tasks.classify:macro_f1"),
        },
        ("macro_f1", "agreement", "ece"),
        "jobs.tasks.classify:score",
        "jobs.training.classify:Classify",
    ),
    "generate": Task(
        "bleu",
        {"bleu": Summed("jobs.tasks.generate:statistics", "jobs.tasks.generate:value")},
        ("rouge_l", "slot_error_rate"),
        "jobs.tasks.generate:score",
        "jobs.training.generate:Generate",
    ),
}


def named(text: str) -> Any:
    """What `text`, "module:name", stands for."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)
