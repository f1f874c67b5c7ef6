"""How well next items are ranked, over the whole catalogue: sampled negatives can turn the order of models around
(Krichene and Rendle 2020, doi 10.1145/3394486.3403226).

A question wants the items of one basket, mostly several. An item that is not in the catalogue counts as not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from jobs.measure.bootstrap import interval, resampled
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.splits import Question

if TYPE_CHECKING:
    import numpy as np

CUTS = (5, 10, 20)
METRIC = "ndcg_10"
AT_ONCE = 256  # questions whose scores are held in memory


class Scorer(Protocol):
    """Scores [Q, I] of all items as the next ones; of equal scores the lower number stands first."""

    def __call__(self, questions: Sequence[Question]) -> np.ndarray: ...


class Ranking(NamedTuple):
    """What is said to one question."""

    customer: str
    top: np.ndarray  # numbers of the first items, at most the largest of `CUTS`
    ranks: np.ndarray  # of the wanted items in the whole catalogue, 1 is the first; of those that are known
    wanted: int  # items, unknown ones too


def ranked(score: Scorer, questions: Sequence[Question], catalogue: Catalogue, repeats: bool = True) -> list[Ranking]:
    """The rankings of `questions`, in order.

    Without `repeats` items that a customer has already are neither recommended nor wanted, and a question that wants
    nothing else is left out.
    """
    if not repeats:
        questions = _new_only(questions)
    return [
        each
        for start in range(0, len(questions), AT_ONCE)
        for each in _part(score, questions[start : start + AT_ONCE], catalogue, repeats)
    ]


def metrics(rankings: Sequence[Ranking], catalogue: Catalogue) -> dict[str, float]:
    """Means over questions, with the ends of their 95 % intervals over customers, and what of the catalogue is said.

    `hr_10`: whether a wanted item is among the first 10; `recall_10`: the share of the wanted items that is; `ndcg_10`
    (Järvelin and Kekäläinen 2002): that share with less weight the later an item stands, 1 where all stand first;
    `mrr`: 1 / rank of the first wanted item.
    """
    found = {name: value for cut in CUTS for name, value in _shares(rankings, cut, catalogue).items()}
    for name, value_Q in values(rankings).items():
        sums_CS = by_customer(value_Q, [each.customer for each in rankings])
        found[name] = mean(sums_CS.sum(axis=0))
        found[f"{name}_low"], found[f"{name}_high"] = interval(resampled(sums_CS, mean))
    return found


def values(rankings: Sequence[Ranking]) -> dict[str, np.ndarray]:
    """The value [Q] of each question, by metric."""
    import numpy as np

    found = {"mrr": np.array([1 / each.ranks.min() if len(each.ranks) else 0.0 for each in rankings])}
    for cut in CUTS:
        hits_Q = [each.ranks[each.ranks <= cut] for each in rankings]
        wanted_Q = np.array([each.wanted for each in rankings])
        found[f"hr_{cut}"] = np.array([float(len(hits) > 0) for hits in hits_Q])
        found[f"recall_{cut}"] = np.array([len(hits) for hits in hits_Q]) / wanted_Q
        best_Q = np.cumsum(_gain(np.arange(1, cut + 1)))[np.minimum(wanted_Q, cut) - 1]
        found[f"ndcg_{cut}"] = np.array([_gain(hits).sum() for hits in hits_Q]) / best_Q
    return found


def by_customer(value_Q: np.ndarray, customers: Sequence[str]) -> np.ndarray:
    """float64 [C, 2]: the sum of each customer's values, and how many there are."""
    import numpy as np

    _, customer_Q = np.unique(np.array(customers), return_inverse=True)
    return np.stack([np.bincount(customer_Q, weights=value_Q), np.bincount(customer_Q)], axis=1)


def mean(sums_S: np.ndarray) -> float:
    """The mean of values whose `by_customer` add up to `sums_S`."""
    return float(sums_S[0] / sums_S[1])


def _gain(rank: np.ndarray) -> np.ndarray:
    import numpy as np

    return 1 / np.log2(rank + 1)


def _shares(rankings: Sequence[Ranking], cut: int, catalogue: Catalogue) -> dict[str, float]:
    """The share of the catalogue that is recommended to anyone, and of the recommendations that are popular items."""
    import numpy as np

    said = np.concatenate([each.top[:cut] for each in rankings])
    return {
        f"coverage_{cut}": len(np.unique(said)) / len(catalogue),
        f"popular_share_{cut}": float((said < catalogue.popular).mean()),
    }


def _new_only(questions: Sequence[Question]) -> list[Question]:
    new = (each._replace(wanted=tuple(i for i in each.wanted if i not in set(each.known.items))) for each in questions)
    return [each for each in new if each.wanted]


def _part(score: Scorer, questions: Sequence[Question], catalogue: Catalogue, repeats: bool) -> Iterator[Ranking]:
    import numpy as np

    score_QI = np.array(score(questions), dtype=np.float64)
    for question, score_I in zip(questions, score_QI, strict=True):
        if not repeats:
            score_I[catalogue.numbers(question.known.items)] = -np.inf
        yield ranking(question.customer, score_I, catalogue.numbers(question.wanted), len(question.wanted))


def ranking(customer: str, score_I: np.ndarray, known: Sequence[int], wanted: int) -> Ranking:
    """The ranking by scores of all items, where the items with the numbers `known` are among `wanted` ones.

    What scores no finite number is not recommended: nothing is greater than NaN, which would pass for the best.
    """
    import numpy as np

    order = np.argsort(-score_I, kind="stable")
    order = order[np.isfinite(score_I[order])]
    rank_I = np.full(len(score_I), len(score_I) + 1)
    rank_I[order] = np.arange(1, len(order) + 1)
    rank_W = rank_I[np.asarray(known, dtype=np.int64)]
    return Ranking(customer, order[: max(CUTS)], rank_W[rank_W <= len(score_I)], wanted)
