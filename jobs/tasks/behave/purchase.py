"""How good probabilities of a purchase are: whether they put purchases first, and whether they mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.measure.bootstrap import interval, resampled
from jobs.measure.differences import expected_calibration_error

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


def metrics(probability_N: np.ndarray, bought_N: np.ndarray, customers: Sequence[str]) -> dict[str, float]:
    """AUC and Brier score with the ends of their 95 % intervals over customers; the calibration error.

    A row is a customer at a time, and of one customer there may be several. `auc`: how often a row with a purchase is
    above another, a tie is half of it, NaN where all or none have one; `brier`: the mean squared error, to be held
    against `brier_of_rate`, that of who says the share of purchases to everybody; `purchase_ece`: how far probabilities
    and shares of purchases lie apart, in bins of equal width.
    """
    import numpy as np

    probability_N = np.asarray(probability_N, dtype=np.float64)
    bought_N = np.asarray(bought_N, dtype=bool)
    rate = float(bought_N.mean())
    found = {"purchase_rate": rate, "brier_of_rate": rate * (1 - rate)}
    found["purchase_ece"] = expected_calibration_error(probability_N.tolist(), bought_N.tolist())
    together_CN = _by_customer(customers)
    for name, sums_NS, value in (
        ("auc", places(probability_N, bought_N), auc),
        ("brier", errors(probability_N, bought_N), brier),
    ):
        sums_CS = together_CN @ sums_NS
        found[name] = value(sums_CS.sum(axis=0))
        drawn = [each for each in resampled(sums_CS, value) if not np.isnan(each)]
        found[f"{name}_low"], found[f"{name}_high"] = interval(drawn) if drawn else (found[name], found[name])
    return found


def _by_customer(customers: Sequence[str]) -> csr_array:
    """int64 [C, N], sparse: 1 where a row is of a customer."""
    import numpy as np
    from scipy.sparse import csr_array

    names, customer_N = np.unique(np.array(customers), return_inverse=True)
    ones_N = np.ones(len(customer_N), dtype=np.int64)
    return csr_array((ones_N, (customer_N, np.arange(len(customer_N)))), shape=(len(names), len(customer_N)))


def places(probability_N: np.ndarray, bought_N: np.ndarray) -> csr_array:
    """int64 [N, 2 U], sparse: which of the U probabilities, in rising order, a row has; U further if bought."""
    import numpy as np
    from scipy.sparse import csr_array

    distinct_U, place_N = np.unique(probability_N, return_inverse=True)
    count, column_N = len(place_N), place_N + len(distinct_U) * np.asarray(bought_N, dtype=np.int64)
    return csr_array((np.ones(count, dtype=np.int64), (np.arange(count), column_N)), shape=(count, 2 * len(distinct_U)))


def auc(sums_S: np.ndarray) -> float:
    """The area under the ROC curve of rows whose `places` add up to `sums_S`; NaN where all or none have a purchase."""
    others_U, buyers_U = sums_S.reshape(2, -1)
    pairs = int(others_U.sum()) * int(buyers_U.sum())
    below_U = others_U.cumsum() - others_U / 2
    return float((buyers_U * below_U).sum() / pairs) if pairs else float("nan")


def errors(probability_N: np.ndarray, bought_N: np.ndarray) -> np.ndarray:
    """float64 [N, 2]: the squared error of each row, and 1."""
    import numpy as np

    error_N = (np.asarray(probability_N) - np.asarray(bought_N, dtype=np.float64)) ** 2
    return np.stack([error_N, np.ones(len(error_N))], axis=1)


def brier(sums_S: np.ndarray) -> float:
    """The Brier score of rows whose `errors` add up to `sums_S`."""
    return float(sums_S[0] / sums_S[1])


def reliability(
    probability_N: Sequence[float], bought_N: Sequence[bool], bins: int = 10
) -> list[tuple[float, float, int]]:
    """(mean probability, share of purchases, rows) of each bin with as many rows as the others, rising."""
    import numpy as np

    order_N = np.argsort(probability_N, kind="stable")
    parts = [part for part in np.array_split(order_N, bins) if len(part)]
    chance_N, hit_N = np.asarray(probability_N, dtype=np.float64), np.asarray(bought_N, dtype=np.float64)
    return [(float(chance_N[part].mean()), float(hit_N[part].mean()), len(part)) for part in parts]
