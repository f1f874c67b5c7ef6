"""Generation: a text that follows from a prompt, or from attributes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.data.source import Row, Slots

if TYPE_CHECKING:
    import numpy as np

WORDS = re.compile(r"\w+|[^\w\s]")
UNSAYABLE = frozenset({"true", "false", "yes", "no", "none", "dontcare", "dont_care", "?", ""})


def score(predicted: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """BLEU and ROUGE-L, 0 to 100; for rows with attributes also the slot error rates of predictions and references.

    Rows with the same prompt are one another's references. BLEU: Papineni et al. 2002, as sacrebleu computes it;
    ROUGE-L: Lin 2004, the best F over the references.
    """
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    references = _references(rows)
    most = max(map(len, references))
    streams = [[each[index] if index < len(each) else None for each in references] for index in range(most)]
    scorer = RougeScorer(["rougeL"])
    rouge = [
        scorer.score_multi(each, text)["rougeL"].fmeasure for each, text in zip(references, predicted, strict=True)
    ]
    scores = {
        "bleu": sacrebleu.corpus_bleu(list(predicted), streams).score,  # pyright: ignore[reportArgumentType] - None is "no such reference"
        "rouge_l": 100 * sum(rouge) / len(rouge),
    }
    if any(row.slots for row in rows):
        known = {slot for row in rows for slot in row.slots}
        scores["slot_error_rate"] = slot_error_rate(predicted, [row.slots for row in rows], known)
        scores["reference_slot_error_rate"] = slot_error_rate(
            [row.label for row in rows], [row.slots for row in rows], known
        )
    return scores


def statistics(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 10], the sums of BLEU by row: n-grams matched and predicted (n = 1 to 4), length, reference length."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True)  # sacrebleu wants it for single texts; the counts are the same
    scores = [bleu.sentence_score(text, each) for text, each in zip(predicted, _references(rows), strict=True)]
    return np.array([(*each.counts, *each.totals, each.sys_len, each.ref_len) for each in scores], dtype=np.int64)


def value(sums_S: np.ndarray) -> float:
    """The BLEU of texts whose `statistics` add up to `sums_S`."""
    from sacrebleu.metrics.bleu import BLEU

    sums = sums_S.tolist()
    return BLEU.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method="exp").score


def slot_error_rate(texts: Sequence[str], slots: Sequence[Slots], known: Iterable[tuple[str, str]]) -> float:
    """(missing + wrong) / asked, over all texts: values that a text lacks, and values that it should not say.

    Wen et al. 2015 (arXiv 1508.01745), section 5.1, on plain text: a text says a value where the value's words stand in
    a row, in any letter case. Values that stand for a sentence (`UNSAYABLE`) are not looked for; a value of `known`
    counts as wrong only if it has several words, so that no chance word does.
    """
    asked = missing = wrong = 0
    telling = {words for _, value in known if (words := _words(value)).count(" ") > 2}
    for text, own in zip(texts, slots, strict=True):
        said, wanted = _words(text), [_words(value) for _, value in own if value.lower() not in UNSAYABLE]
        asked += len(wanted)
        missing += sum(words not in said for words in wanted)
        allowed = "".join(wanted)
        wrong += sum(words in said and words not in allowed for words in telling)
    return (missing + wrong) / asked if asked else 0.0


def _references(rows: Sequence[Row]) -> list[list[str]]:
    """References of each row: the different texts of all rows with its prompt."""
    by_prompt: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    for row in rows:
        if row.label not in by_prompt[row.text, row.pair]:
            by_prompt[row.text, row.pair].append(row.label)
    return [by_prompt[row.text, row.pair] for row in rows]


def _words(text: str) -> str:
    """The text in lower case with a space around every word and mark, so that values are found as substrings."""
    return f" {' '.join(WORDS.findall(text.lower()))} "
