"""Classification: one label of C for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.data.source import Row

if TYPE_CHECKING:
    import numpy as np

METRIC = "accuracy"  # what budgets, retention and the choice of a winner go by


def metrics(predicted: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of class numbers [N]; a class that occurs in neither counts as absent."""
    import numpy as np
    from sklearn.metrics import f1_score

    present = np.union1d(predicted, expected)
    return {
        "accuracy": float((predicted == expected).mean()),
        "macro_f1": float(f1_score(expected, predicted, labels=present, average="macro")),
    }


def score(predicted: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """`metrics` of predicted class names against those of the rows."""
    import numpy as np

    number = {label: index for index, label in enumerate(sorted({*predicted, *(row.label for row in rows)}))}
    return metrics(np.array([number[label] for label in predicted]), np.array([number[row.label] for row in rows]))


def statistics(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 2]: whether each row is right, and 1."""
    import numpy as np

    return np.array([(text == row.label, 1) for text, row in zip(predicted, rows, strict=True)], dtype=np.int64)


def value(sums_S: np.ndarray) -> float:
    """The accuracy of rows whose `statistics` add up to `sums_S`."""
    return float(sums_S[0] / sums_S[1])
