"""How far a metric would move with other rows: the bootstrap over rows (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

DRAWS = 1000
LEVEL = 0.95


def resampled(
    statistics_NS: np.ndarray | csr_array, value: Callable[[np.ndarray], float], seed: int = 0, draws: int = DRAWS
) -> list[float]:
    """The metric of each of `draws` samples of N rows, taken with replacement.

    `value` makes the metric of the sums [S] of what `statistics_NS` says of each row. Equal N and seed give the same
    samples: what two contenders got there is paired, draw by draw (Koehn 2004, section 4).
    """
    import numpy as np

    (rows, _), random = statistics_NS.shape or (0, 0), np.random.default_rng(seed)
    counts = (np.bincount(random.integers(rows, size=rows), minlength=rows) for _ in range(draws))
    return [value(counts_N @ statistics_NS) for counts_N in counts]


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval: (low, high) between which a share of `level` of the resampled `values` lies."""
    import numpy as np

    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
