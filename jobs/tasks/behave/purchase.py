"""How good probabilities of a purchase are: whether they put buyers first, and whether they mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.measure.bootstrap import interval, resampled
from jobs.measure.differences import expected_calibration_error

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


def metrics(probability_N: np.ndarray, bought_N: np.ndarray) -> dict[str, float]:
    """AUC and Brier score with the ends of their 95 % intervals over customers, one a row; the calibration error.

    `auc`: how often a buyer is above another customer, a tie is half of it, NaN where all or none bought; `brier`: the
    mean squared error, to be held against `brier_of_rate`, that of who says the share of buyers to everybody;
    `purchase_ece`: how far probabilities and shares of buyers lie apart, in bins of equal width.
    """
    import numpy as np

    probability_N = np.asarray(probability_N, dtype=np.float64)
    bought_N = np.asarray(bought_N, dtype=bool)
    rate = float(bought_N.mean())
    found = {"purchase_rate": rate, "brier_of_rate": rate * (1 - rate)}
    found["purchase_ece"] = expected_calibration_error(probability_N.tolist(), bought_N.tolist())
    for name, sums_NS, value in (
        ("auc", places(probability_N, bought_N), auc),
        ("brier", errors(probability_N, bought_N), brier),
    ):
        found[name] = value(sums_NS.sum(axis=0))
        drawn = [each for each in resampled(sums_NS, value) if not np.isnan(each)]
        found[f"{name}_low"], found[f"{name}_high"] = interval(drawn) if drawn else (found[name], found[name])
    return found


def places(probability_N: np.ndarray, bought_N: np.ndarray) -> csr_array:
    """int64 [N, 2 U], sparse: which of the U probabilities, in rising order, a customer has; U further if bought."""
    import numpy as np
    from scipy.sparse import csr_array

    distinct_U, place_N = np.unique(probability_N, return_inverse=True)
    count, column_N = len(place_N), place_N + len(distinct_U) * np.asarray(bought_N, dtype=np.int64)
    return csr_array((np.ones(count, dtype=np.int64), (np.arange(count), column_N)), shape=(count, 2 * len(distinct_U)))


def auc(sums_S: np.ndarray) -> float:
    """The area under the ROC curve of customers whose `places` add up to `sums_S`; NaN without buyers, or others."""
    others_U, buyers_U = sums_S.reshape(2, -1)
    pairs = int(others_U.sum()) * int(buyers_U.sum())
    below_U = others_U.cumsum() - others_U / 2
    return float((buyers_U * below_U).sum() / pairs) if pairs else float("nan")


def errors(probability_N: np.ndarray, bought_N: np.ndarray) -> np.ndarray:
    """float64 [N, 2]: the squared error of each customer, and 1."""
    import numpy as np

    error_N = (np.asarray(probability_N) - np.asarray(bought_N, dtype=np.float64)) ** 2
    return np.stack([error_N, np.ones(len(error_N))], axis=1)


def brier(sums_S: np.ndarray) -> float:
    """The Brier score of customers whose `errors` add up to `sums_S`."""
    return float(sums_S[0] / sums_S[1])


def reliability(
    probability_N: Sequence[float], bought_N: Sequence[bool], bins: int = 10
) -> list[tuple[float, float, int]]:
    """(mean probability, share of buyers, customers) of each bin with as many customers as the others, rising."""
    import numpy as np

    order_N = np.argsort(probability_N, kind="stable")
    parts = [part for part in np.array_split(order_N, bins) if len(part)]
    chance_N, hit_N = np.asarray(probability_N, dtype=np.float64), np.asarray(bought_N, dtype=np.float64)
    return [(float(chance_N[part].mean()), float(hit_N[part].mean()), len(part)) for part in parts]
