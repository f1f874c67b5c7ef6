"""How like its references a text is, and how often it repeats itself, as sums over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.data.source import Row
from jobs.tasks.generate.references import references_of, streams
from serving import units

if TYPE_CHECKING:
    import numpy as np

GRAM = 4  # units of a string that counts as repeated


class Letters:
    """What ROUGE-L compares, as the package rouge-score asks for it."""

    def tokenize(self, text: str) -> list[str]:
        """Units without signs."""
        return units.letters(text)


def rouges(predicted: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """ROUGE-L of each row, 0 to 1: Lin 2004, the best F over the references."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Letters())
    return [
        scorer.score_multi(each, text)["rougeL"].fmeasure
        for each, text in zip(references_of(rows), predicted, strict=True)
    ]


def rouge_counts(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """float [N, 2]: 100 times the ROUGE-L of each row, and 1."""
    import numpy as np

    return np.array([(100 * each, 1) for each in rouges(predicted, rows)])


def chrf_counts(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 18], the sums of chrF by row: n-grams (n = 1 to 6) said, in the likest reference, in both."""
    import numpy as np

    return np.array(
        _chrf()._extract_corpus_statistics(list(predicted), streams(references_of(rows))),  # pyright: ignore[reportPrivateUsage]
        dtype=np.int64,
    )


def chrf(sums_S: np.ndarray) -> float:
    """The chrF (Popovic 2015, beta 2), 0 to 100, of texts whose `chrf_counts` add up to `sums_S`."""
    return float(_chrf()._compute_score_from_stats(sums_S.tolist()).score)  # pyright: ignore[reportPrivateUsage]


def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def exact_counts(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 2]: whether each text is one of its references but for spaces and the way accents were typed, and 1."""
    import numpy as np

    known = [set(map(_spaced, each)) for each in references_of(rows)]
    return np.array([(_spaced(text) in each, 1) for text, each in zip(predicted, known, strict=True)], dtype=np.int64)


def repetition_counts(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 2]: strings of four units that a text said before, and all (Welleck et al. 2020, arXiv 1908.04319)."""
    import numpy as np

    found = []
    for text in predicted:
        said = units.terms(units.folded(text))
        grams = [tuple(said[start : start + GRAM]) for start in range(len(said) - GRAM + 1)]
        found.append((len(grams) - len(set(grams)), len(grams)))
    return np.array(found, dtype=np.int64)


def share(sums_S: np.ndarray) -> float:
    """The first sum as a share of the second; 0 where there is nothing to share."""
    return float(sums_S[0] / sums_S[1]) if sums_S[1] else 0.0


def _spaced(text: str) -> str:
    return " ".join(units.written(text).split())
