"""Classification: one label of C for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.schema.tasks import Task, named
from jobs.data.source import Row

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

METRIC = "accuracy"


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


def of_classes(task: Task, classes: Sequence[str], predicted: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """What `task` scores of class numbers [N]."""
    found, known = ([classes[int(number)] for number in numbers] for numbers in (predicted, expected))
    return named(task.score)(found, [Row("", None, label) for label in known])


def right(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 2]: whether each row is right, and 1."""
    import numpy as np

    return np.array([(text == row.label, 1) for text, row in zip(predicted, rows, strict=True)], dtype=np.int64)


def accuracy(sums_S: np.ndarray) -> float:
    """The accuracy of rows whose `right` add up to `sums_S`."""
    return float(sums_S[0] / sums_S[1])


def confusions(predicted: Sequence[str], rows: Sequence[Row]) -> csr_array:
    """int64 [N, 3 C], sparse: whether a class is the right answer, is the answer, is the label, of each row."""
    import numpy as np
    from scipy.sparse import csr_array

    number = {label: index for index, label in enumerate(sorted({*predicted, *(row.label for row in rows)}))}
    places = [
        (index, column)
        for index, (text, row) in enumerate(zip(predicted, rows, strict=True))
        for column in (
            *([number[text]] if text == row.label else []),
            len(number) + number[text],
            2 * len(number) + number[row.label],
        )
    ]
    rows_P, columns_P = np.array(places).T
    return csr_array((np.ones(len(places), dtype=np.int64), (rows_P, columns_P)), shape=(len(rows), 3 * len(number)))


def macro_f1(sums_S: np.ndarray) -> float:
    """The macro-F1 of rows whose `confusions` add up to `sums_S`; a class that occurs in neither counts as absent."""
    right_C, answered_C, labels_C = sums_S.reshape(3, -1)
    both_C = answered_C + labels_C
    return float((2 * right_C[both_C > 0] / both_C[both_C > 0]).mean())
