"""How sure a model may say it is, and how sure it must be to answer instead of a larger one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.classifier import softmax

if TYPE_CHECKING:
    import numpy as np

COLDEST, HOTTEST = 0.05, 20.0  # where all rows or none are right, the best temperature is 0 or infinite
ROUNDING = 1e-4  # by which a probability may differ between machines and batches
STEPS = 50  # of bisection: the last bits of a float


def fit_temperature(logits_NC: np.ndarray, label_N: np.ndarray) -> float:
    """The T whose softmax(logits / T) gives the labels the least negative log-likelihood (NLL).

    Temperature scaling, Guo et al. 2017 (arXiv 1706.04599), section 4.2. `logits_NC` may be log-probabilities, which
    differ from logits by a constant of the row. The NLL is convex in 1 / T, so its slope there, the mean over the rows
    of E[logit] - logit of the label, has one zero.
    """
    import numpy as np

    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    expected = logits_NC[np.arange(len(label_N)), label_N].mean()
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        if (softmax(logits_NC * middle) * logits_NC).sum(axis=1).mean() < expected:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def confidence(logits_NC: np.ndarray, temperature: float) -> np.ndarray:
    """Probability [N] of the likeliest class of softmax(logits / temperature)."""
    return softmax(logits_NC / temperature).max(axis=1)


def lowest_threshold(
    confidence_N: np.ndarray, first_right_N: np.ndarray, second_right_N: np.ndarray, wanted: float, margin: float = 0.0
) -> float | None:
    """The lowest threshold with which a cascade has an accuracy of `wanted`, at the smallest share of the second.

    With a `margin` of so many standard errors of the paired difference to the second alone to spare, there and at every
    higher threshold: thresholds are tried from the highest on, up to the first that fails, so that the lowest is not
    one of many that chance let through (fixed sequence testing, Angelopoulos et al. 2021, arXiv 2110.01052). One row
    that differs is counted more than there is, as none of few rows proves little.

    Rows whose `confidence_N` reaches it are answered by the first model, the rest by the second; `*_right_N` says which
    rows each would answer rightly. It lies midway between two confidences, so that rounding moves no row across; 0
    where the first may answer all rows, None where it may answer none.
    """
    import numpy as np

    surest_first = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[surest_first]
    gained_N = (first_right_N[surest_first].astype(int) - second_right_N[surest_first]).cumsum()
    right_N = second_right_N.sum() + gained_N  # rows of the cascade that are right if the first answers up to here
    next_N = np.append(sorted_N[1:], 0.0)
    apart_N = sorted_N - next_N > np.finfo(np.float32).eps  # closer ones change places with the batch they are in
    enough_N = right_N / len(right_N) >= wanted
    if margin:
        differ_N = (first_right_N != second_right_N)[surest_first].cumsum()
        error_N = np.sqrt(differ_N + 1 - gained_N**2 / len(gained_N)) / len(gained_N)
        held_N = right_N / len(right_N) - margin * error_N >= wanted
        enough_N &= np.logical_and.accumulate(held_N | ~apart_N)
    possible = (enough_N & apart_N).nonzero()[0]
    if not len(possible):
        return None
    last = possible[-1]
    return 0.0 if last == len(sorted_N) - 1 else float((sorted_N[last] + next_N[last]) / 2)


def lowest_safe_threshold(confidence_N: np.ndarray, right_N: np.ndarray, wanted: float, margin: float) -> float | None:
    """The lowest threshold at which a share `wanted` of the rows that reach it is right; None where there is none.

    With `margin` standard errors of that share to spare. One wrong row more is counted than there is, as few rows
    without a wrong one prove little. It lies midway between two confidences, so that rounding moves no row across; just
    below the lowest where all rows may be answered, as nothing is known of what is less sure than that.
    """
    import numpy as np

    surest_first = np.argsort(-confidence_N, kind="stable")
    sorted_N = confidence_N[surest_first]
    count_N = np.arange(1, len(sorted_N) + 1)
    wrong_N = (~right_N[surest_first]).cumsum()
    feared_N = np.minimum(1.0, (wrong_N + 1) / count_N)
    error_N = np.sqrt(feared_N * (1 - feared_N) / count_N)
    next_N = np.append(sorted_N[1:], 0.0)
    apart_N = sorted_N - next_N > np.finfo(np.float32).eps  # closer ones change places with the batch they are in
    enough_N = 1 - wrong_N / count_N - margin * error_N >= wanted
    possible = (enough_N & apart_N & (feared_N < 1)).nonzero()[0]
    if not len(possible):
        return None
    last = possible[-1]
    if last == len(sorted_N) - 1:
        return max(0.0, float(sorted_N[last]) - ROUNDING)
    return float((sorted_N[last] + next_N[last]) / 2)
