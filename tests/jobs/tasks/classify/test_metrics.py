from __future__ import annotations

import numpy as np
import pytest

from configs.schema.tasks import TASKS, named
from jobs.data.source import Row
from jobs.tasks.classify import metrics


def answered(classes: int, rows: int = 200, seed: int = 0) -> tuple[list[str], list[Row]]:
    """Labels of unequal frequency, three of four answered rightly."""
    chance = np.random.default_rng(seed)
    labels = [f"c{number}" for number in np.minimum(chance.geometric(0.4, rows) - 1, classes - 1)]
    said = [label if chance.random() < 0.75 else f"c{chance.integers(classes)}" for label in labels]
    return said, [Row("", None, label) for label in labels]


@pytest.mark.parametrize("name", TASKS["classify"].metrics)
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_a_metric_follows_from_sums_over_rows_of_any_sample(name: str, classes: int):
    task = TASKS["classify"].by(name)
    said, rows = answered(classes)
    statistics_NS = named(task.summed.statistics)(said, rows)
    for seed in range(5):
        drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
        sums_S = np.bincount(drawn, minlength=len(rows)) @ statistics_NS
        expected = metrics.score([said[row] for row in drawn], [rows[row] for row in drawn])[name]
        assert named(task.summed.value)(sums_S) == pytest.approx(expected)


def test_a_task_by_another_metric_shows_its_own_beside():
    task = TASKS["classify"]
    assert task.by(None) is task.by("accuracy") is task
    other = task.by("macro_f1")
    assert (other.metric, other.shown) == ("macro_f1", ("accuracy", "agreement", "ece"))
    assert other.summed.value.endswith(":macro_f1") and other.by("accuracy").metric == "accuracy"
