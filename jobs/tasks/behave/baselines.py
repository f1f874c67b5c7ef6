"""Simple models that rank next items, fitted in seconds: what any student must beat to be worth its training.

Each scores the whole catalogue. What it knows nothing of scores 0, and of equal scores the item bought more often
stands first: so all of them say the popular items to an empty history, and after their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.instants import DAY
from jobs.tasks.behave.metrics import METRIC, Scorer, ranked, values
from jobs.tasks.behave.rows import History
from jobs.tasks.behave.splits import Question, baskets

if TYPE_CHECKING:
    import numpy as np

LARGEST = 15_000  # items of an inverse in memory: 1.8 GB for each of two matrices of float64
ROWS_AT_ONCE = 512  # of similarities that are held in full
Sparse = Any  # a csr_array, of whose operators type checkers know little


class Log:
    """Histories to learn from, as what baselines count in them; counted once for all."""

    def __init__(self, histories: Sequence[History], catalogue: Catalogue) -> None:
        self.histories, self.catalogue = histories, catalogue

    @cached_property
    def is_timed(self) -> bool:
        """Whether events have times."""
        return any(history.times for history in self.histories)

    @cached_property
    def has_CI(self) -> Sparse:
        """float64 [C, I], sparse: 1 where a customer has an item."""
        return held((each.items for each in self.histories), self.catalogue)

    @cached_property
    def together_II(self) -> Sparse:
        """float64 [I, I], sparse: how many customers have both items; on the diagonal, the one."""
        return (self.has_CI.T @ self.has_CI).tocsr()

    @cached_property
    def purchases(self) -> tuple[np.ndarray, np.ndarray]:
        """(times, numbers of items) of all purchases, rising in time."""
        import numpy as np

        found = [
            (time, number)
            for history in self.histories
            for index, (time, item) in enumerate(zip(history.times, history.items, strict=False))
            if history.bought(index)
            for number in self.catalogue.numbers([item])
        ]
        found.sort(key=lambda each: each[0])
        return np.array([time for time, _ in found]), np.array([number for _, number in found], dtype=np.int64)


class ItemBaseline(NamedTuple):
    """A simple model: how it is fitted, the settings of which validation chooses, and what it is, in words."""

    fit: Callable[..., Scorer]  # (log, **setting)
    settings: tuple[Mapping[str, Any], ...]
    what: str
    impossible: Callable[[Log], str | None] = lambda log: None  # why it cannot be fitted; None where it can


class Chosen(NamedTuple):
    """A baseline with the best of its settings."""

    scorer: Scorer
    setting: Mapping[str, Any]
    validation: float  # `METRIC` of the validation questions


def chosen(name: str, log: Log, validation: Sequence[Question], repeats: bool = True) -> Chosen | str:
    """The baseline `name` with the setting that ranks `validation` best, the first of equal ones; else why there is
    none."""
    baseline = BASELINES[name]
    if reason := baseline.impossible(log):
        return reason
    tried = []
    for setting in baseline.settings:
        scorer = baseline.fit(log, **setting)
        value_Q = values(ranked(scorer, validation, log.catalogue, repeats))[METRIC]
        tried.append(Chosen(scorer, setting, float(value_Q.mean())))
    return max(tried, key=lambda each: each.validation)


def fit_popular(log: Log) -> Scorer:
    """The same for everybody: how often an item was bought, the order in which the catalogue is numbered."""
    import numpy as np

    score_I = -np.arange(len(log.catalogue), dtype=np.float64)
    return lambda questions: np.tile(score_I, (len(questions), 1))


def fit_recent(log: Log, days: int) -> Scorer:
    """How often an item was bought in the last `days` before the question of which the log still tells."""
    return partial(_recent_scores, log, days * DAY)


def _recent_scores(log: Log, span: float, questions: Sequence[Question]) -> np.ndarray:
    import numpy as np

    time_P, item_P = log.purchases
    score_QI = np.zeros((len(questions), len(log.catalogue)))
    if not len(time_P):
        return score_QI
    for row, question in enumerate(questions):
        asked = np.inf if question.at is None else question.at
        stop = np.searchsorted(time_P, asked)  # events of that very time are not known
        start = (
            np.searchsorted(time_P, time_P[stop - 1] - span)
            if asked > time_P[-1]
            else np.searchsorted(time_P, asked - span)
        )
        score_QI[row] = np.bincount(item_P[start:stop], minlength=len(log.catalogue))
    return score_QI


def fit_repeat(log: Log) -> Scorer:
    """How often the customer has an item already."""
    return partial(_repeat_scores, log.catalogue)


def _repeat_scores(catalogue: Catalogue, questions: Sequence[Question]) -> np.ndarray:
    return counted((each.known.items for each in questions), catalogue).toarray()


def fit_markov(log: Log) -> Scorer:
    """How often an item was in the basket after one with an item of the customer's last basket, as a share: the mean
    over those items."""
    next_II = _transitions(log)
    return lambda questions: (_shares(_last_baskets(questions, log.catalogue)) @ next_II).toarray()


def _transitions(log: Log) -> Sparse:
    """float64 [I, I], sparse: of the items in the baskets after one with an item, the share that each is."""
    pairs = [
        (history.items[first:middle], history.items[middle:last])
        for history in log.histories
        for (first, middle), (_, last) in pairwise(baskets(history))
    ]
    before_PI, after_PI = (held((pair[side] for pair in pairs), log.catalogue) for side in (0, 1))
    return _shares((before_PI.T @ after_PI).tocsr())


def _last_baskets(questions: Sequence[Question], catalogue: Catalogue) -> Sparse:
    last = [baskets(each.known)[-1:] for each in questions]
    return held(
        (each.known.items[slice(*unit[0])] if unit else () for each, unit in zip(questions, last, strict=True)),
        catalogue,
    )


def _shares(count_NI: Sparse) -> Sparse:
    """The rows divided by their sums; rows of zeros stay."""
    import numpy as np
    from scipy.sparse import diags_array

    sum_N = np.asarray(count_NI.sum(axis=1)).ravel()
    return (diags_array(1 / np.maximum(sum_N, 1)) @ count_NI).tocsr()


def fit_knn(log: Log, neighbours: int) -> Scorer:
    """The sum of the cosines of an item with those of the customer's items that are among its nearest `neighbours`
    (Sarwar et al. 2001, doi 10.1145/371920.372071). Items are alike that the same customers have."""
    import numpy as np
    from scipy.sparse import csr_array, vstack

    together_II = log.together_II
    norm_I = np.sqrt(together_II.diagonal())
    parts = []
    for start in range(0, len(norm_I), ROWS_AT_ONCE):
        cosine_BI = together_II[start : start + ROWS_AT_ONCE].toarray()
        cosine_BI /= norm_I[start : start + ROWS_AT_ONCE, None] * norm_I
        row_B = np.arange(len(cosine_BI))
        cosine_BI[row_B, start + row_B] = 0
        further_BI = np.argsort(-cosine_BI, axis=1, kind="stable")[:, neighbours:]
        np.put_along_axis(cosine_BI, further_BI, 0, axis=1)
        parts.append(csr_array(cosine_BI))
    near_II = vstack(parts).T.tocsr()
    return lambda questions: (_known(questions, log.catalogue) @ near_II).toarray()


def fit_ease(log: Log, regularization: float) -> Scorer:
    """EASE^R (Steck 2019, arXiv 1905.03375, equation 8): each item's column is the ridge regression on all others.

    With P = (X'X + regularization I)^-1, the weights are -P / diag(P), 0 on the diagonal.
    """
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    weight_II = log.together_II.toarray()
    weight_II[np.diag_indices_from(weight_II)] += regularization
    factor = cho_factor(weight_II, overwrite_a=True, check_finite=False)
    weight_II = cho_solve(factor, np.eye(len(weight_II)), overwrite_b=True, check_finite=False)
    weight_II /= -np.diag(weight_II).copy()
    np.fill_diagonal(weight_II, 0)
    return lambda questions: _known(questions, log.catalogue) @ weight_II


def _known(questions: Sequence[Question], catalogue: Catalogue) -> Sparse:
    return held((each.known.items for each in questions), catalogue)


def held(items: Iterable[Iterable[str]], catalogue: Catalogue) -> Sparse:
    """float64 [N, I], sparse: 1 where an item is among those of a row."""
    found = counted(items, catalogue)
    found.data[:] = 1
    return found


def counted(items: Iterable[Iterable[str]], catalogue: Catalogue) -> Sparse:
    """float64 [N, I], sparse: how often an item is among those of a row."""
    import numpy as np
    from scipy.sparse import csr_array

    numbers = [catalogue.numbers(each) for each in items]
    row_P = np.repeat(np.arange(len(numbers)), [len(each) for each in numbers])
    column_P = np.array([number for each in numbers for number in each], dtype=np.int64)
    found = csr_array((np.ones(len(column_P)), (row_P, column_P)), shape=(len(numbers), len(catalogue)))
    found.sum_duplicates()
    return found


def _untimed(log: Log) -> str | None:
    return None if log.is_timed else "the histories have no times"


def _too_large(log: Log) -> str | None:
    return (
        None if len(log.catalogue) <= LARGEST else f"{len(log.catalogue)} items are more than the {LARGEST} it can hold"
    )


BASELINES: dict[str, ItemBaseline] = {
    "popular": ItemBaseline(fit_popular, ({},), "the items bought most"),
    "recent": ItemBaseline(
        fit_recent, ({"days": 7}, {"days": 28}), "the items bought most in the last days before the question", _untimed
    ),
    "repeat": ItemBaseline(fit_repeat, ({},), "what the customer has already, most often first"),
    "markov": ItemBaseline(fit_markov, ({},), "what mostly follows the items of the last basket"),
    "knn": ItemBaseline(
        fit_knn, tuple({"neighbours": count} for count in (20, 100, 500)), "items of customers with the same items"
    ),
    "ease": ItemBaseline(
        fit_ease,
        tuple({"regularization": value} for value in (100.0, 1000.0, 10_000.0)),
        "a ridge regression of each item on all others",
        _too_large,
    ),
}
