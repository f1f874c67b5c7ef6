from __future__ import annotations

from typing import Any

from jobs.compression.step_context import StepContext


class Alone(StepContext):
    """A workplace without a student's files: a step finds there what the test gives, and nothing else."""

    def __init__(self, **given: Any) -> None:
        self.facts = {}
        self.__dict__.update(given)
