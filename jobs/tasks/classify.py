"""Classification: one label of C for a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
