"""Generation: a text that follows from a prompt, or from attributes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.data.source import Row, Slots
from serving import units

if TYPE_CHECKING:
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

UNSAYABLE = frozenset({"true", "false", "yes", "no", "none", "dontcare", "dont_care", "?", ""})


class Letters:
    """What ROUGE-L compares, as the package rouge-score asks for it."""

    def tokenize(self, text: str) -> list[str]:
        """Units without signs."""
        return units.letters(text)


def score(predicted: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """BLEU and ROUGE-L, 0 to 100; for rows with attributes also the slot error rates of predictions and references.

    Rows with the same prompt are one another's references. BLEU: Papineni et al. 2002, as sacrebleu computes it;
    ROUGE-L: Lin 2004, the best F over the references. Both count words or characters, see `serving.units`.
    """
    from rouge_score.rouge_scorer import RougeScorer

    references = _references(rows)
    scorer = RougeScorer(["rougeL"], tokenizer=Letters())
    rouge = [
        scorer.score_multi(each, text)["rougeL"].fmeasure for each, text in zip(references, predicted, strict=True)
    ]
    texts, references = _cut_for_bleu(predicted, references)
    most = max(map(len, references))
    streams = [[each[index] if index < len(each) else None for each in references] for index in range(most)]
    scores = {
        "bleu": _bleu().corpus_score(texts, streams).score,  # pyright: ignore[reportArgumentType] - None is "no such reference"
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

    bleu = _bleu()
    scores = [
        bleu.sentence_score(text, each) for text, each in zip(*_cut_for_bleu(predicted, _references(rows)), strict=True)
    ]
    return np.array([(*each.counts, *each.totals, each.sys_len, each.ref_len) for each in scores], dtype=np.int64)


def value(sums_S: np.ndarray) -> float:
    """The BLEU of texts whose `statistics` add up to `sums_S`."""
    from sacrebleu.metrics.bleu import BLEU

    sums = sums_S.tolist()
    return BLEU.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method="exp", effective_order=True).score


def _bleu() -> BLEU:
    """Of texts that are cut. Where no prediction has four units, the longest strings of units that there are count."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="none", force=True, effective_order=True)


def _cut_for_bleu(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Texts with a space between their units: characters and sacrebleu's `zh` where a row's references have any
    characters, so that all contenders are cut alike, and its default `13a` elsewhere."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    words, characters = Tokenizer13a(), TokenizerZh()
    texts, others = [], []
    for text, each in zip(predicted, references, strict=True):
        cut = characters if any(map(units.has_characters, each)) else words
        said, *own = (cut(units.apart(units.written(one)).rstrip()) for one in (text, *each))
        texts.append(said)
        others.append(own)
    return texts, others


def slot_error_rate(texts: Sequence[str], slots: Sequence[Slots], known: Iterable[tuple[str, str]]) -> float:
    """(missing + wrong) / asked, over all texts: values that a text lacks, and values that it should not say.

    Wen et al. 2015 (arXiv 1508.01745), section 5.1, on plain text: a text says a value where the value's words (or
    characters, see `serving.units`) stand in a row, in any letter case. Values that stand for a sentence (`UNSAYABLE`)
    are not looked for; a value of `known` counts as wrong only if it has several words, so that no chance word does.
    """
    asked = missing = wrong = 0
    telling = {_words(value) for _, value in known if units.several_words(value)}
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
    """The text, folded, with a space around every word, character and sign, so that values are found as substrings."""
    return f" {' '.join(units.terms(units.folded(text)))} "
