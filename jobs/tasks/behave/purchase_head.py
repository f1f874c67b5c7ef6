"""How likely a purchase is within a horizon: a logistic regression on when a customer bought, and on what a model of
next items knows of the customer.

It is fitted on what customers did in the horizons that are over, so its probabilities mean shares of customers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from configs.loader import UsageError
from jobs.tasks.behave.instants import DAY, start_of
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import baskets

if TYPE_CHECKING:
    import numpy as np

CLOCKS = 3  # inputs that follow from times alone
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # of the penalty, the inverse; validation chooses


class PurchaseHead(NamedTuple):
    """Log-odds as one matrix product, so that a graph can hold it."""

    weight_F: np.ndarray
    bias: float

    def __call__(self, input_NF: np.ndarray) -> np.ndarray:
        """Probabilities [N] of what `inputs` made of customers."""
        import numpy as np

        return 1 / (1 + np.exp(-(input_NF @ self.weight_F + self.bias)))


def inputs(known: Sequence[History], at: Sequence[float], vector_NH: np.ndarray | None = None) -> np.ndarray:
    """float64 [N, F]: the logarithms of the days since the last event, the number of baskets and the days between two
    of them (since the first, of one), and the vectors of a model where they are given."""
    import numpy as np

    rows = []
    for history, time in zip(known, at, strict=True):
        begins = [history.times[start] for start, _ in baskets(history)]
        since, span = time - begins[-1], begins[-1] - begins[0]
        rows.append((since / DAY, len(begins), (span / (len(begins) - 1) if span else time - begins[0]) / DAY))
    clock_NF = np.log1p(np.array(rows, dtype=np.float64))
    return clock_NF if vector_NH is None else np.concatenate([clock_NF, vector_NH], axis=1)


def fit(
    input_NF: np.ndarray,
    bought_N: Sequence[bool],
    validation_MF: np.ndarray,
    validation_bought_M: Sequence[bool],
    at: str,
) -> PurchaseHead:
    """The head whose penalty gives the validation customers the least log-loss; `at` names the rows in messages.

    Raises `UsageError` where all customers bought, or none.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    for name, bought in (("training", bought_N), ("validation", validation_bought_M)):
        if len(set(bought)) < 2:
            said = "all" if bought and bought[0] else "none"
            raise UsageError(f"{at}: {said} of the {len(bought)} {name} customers bought; take another horizon")
    mean_F, spread_F = input_NF.mean(axis=0), input_NF.std(axis=0)
    spread_F = np.where(spread_F > 0, spread_F, 1.0)
    scaled_NF = (input_NF - mean_F) / spread_F
    tried = []
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=1000).fit(scaled_NF, np.array(bought_N))
        weight_F = fitted.coef_[0] / spread_F
        head = PurchaseHead(weight_F, float(fitted.intercept_[0] - mean_F @ weight_F))
        tried.append((log_loss(validation_bought_M, head(validation_MF), labels=[False, True]), strength, head))
    return min(tried, key=lambda each: each[:2])[2]


def past_days(first: float, last: float, horizon_days: int) -> list[date]:
    """Days, one horizon apart and the latest first, before which a log of events between two times knows somebody, and
    from which a whole horizon is over: no day's purchases are told twice."""
    day, found = datetime.fromtimestamp(last, UTC).date() - timedelta(days=horizon_days), []
    while start_of(day) > first:
        found.append(day)
        day -= timedelta(days=horizon_days)
    return found
