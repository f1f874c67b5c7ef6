"""Generation: a text that follows from a prompt, or from attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.data.source import Row, Slots
from jobs.tasks.generate import likeness
from jobs.tasks.generate.references import references_of, streams
from serving import units
from serving.checks import UNSAYABLE

if TYPE_CHECKING:
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU


def score(predicted: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Metrics of texts, by name; rows with the same prompt are one another's references.

    BLEU, chrF and ROUGE-L, 0 to 100; shares of exact matches and of repeated strings; the length beside that of the
    nearest reference. Of rows with attributes also the slot error rates of predictions and references, and 1 less the
    former. BLEU: Papineni et al. 2002, as sacrebleu computes it. All but chrF count words or characters, see
    `serving.units`.
    """
    texts, references = _cut_for_bleu(predicted, references_of(rows))
    rouge = likeness.rouges(predicted, rows)
    scores = {
        "bleu": _bleu().corpus_score(texts, streams(references)).score,  # pyright: ignore[reportArgumentType] - None is "no such reference"
        "rouge_l": 100 * sum(rouge) / len(rouge),
        "chrf": likeness.chrf(likeness.chrf_counts(predicted, rows).sum(axis=0)),
        "exact_match": likeness.share(likeness.exact_counts(predicted, rows).sum(axis=0)),
        "repetition_rate": likeness.share(likeness.repetition_counts(predicted, rows).sum(axis=0)),
        "length_ratio": length_ratio(statistics(predicted, rows).sum(axis=0)),
    }
    if any(row.slots for row in rows):
        slots = [row.slots for row in rows]
        known = {slot for each in slots for slot in each}
        scores["slot_error_rate"] = slot_error_rate(predicted, slots, known)
        scores["slot_accuracy"] = 1 - scores["slot_error_rate"]
        scores["reference_slot_error_rate"] = slot_error_rate([row.label for row in rows], slots, known)
    return scores


def sent(texts: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """The slot error rate of texts that go out; nothing of rows without attributes."""
    slots = [row.slots for row in rows]
    known = {slot for each in slots for slot in each}
    return {"sent_slot_error_rate": slot_error_rate(texts, slots, known)} if known else {}


def statistics(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 10], the sums of BLEU by row: n-grams matched and predicted (n = 1 to 4), length, reference length."""
    import numpy as np

    bleu = _bleu()
    scores = [
        bleu.sentence_score(text, each)
        for text, each in zip(*_cut_for_bleu(predicted, references_of(rows)), strict=True)
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


def length_ratio(sums_S: np.ndarray) -> float:
    """Units said for each unit of the nearest references, of texts whose `statistics` add up to `sums_S`."""
    return likeness.share(sums_S[8:])


def slot_error_rate(texts: Sequence[str], slots: Sequence[Slots], known: Iterable[tuple[str, str]]) -> float:
    """(missing + wrong) / asked, over all texts: values that a text lacks, and values that it should not say.

    Wen et al. 2015 (arXiv 1508.01745), section 5.1, on plain text: a text says a value where the value's words (or
    characters, see `serving.units`) stand in a row, in any letter case. Values that stand for a sentence (`UNSAYABLE`)
    are not looked for; a value of `known` counts as wrong only if it has several words, so that no chance word does.
    """
    errors, asked = (sum(each) for each in zip((0, 0), *_slot_errors(texts, slots, known), strict=True))
    return errors / asked if asked else 0.0


def slot_counts(predicted: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """int64 [N, 2]: slot errors of each text, and values that it was to say. Rows without attributes have neither."""
    import numpy as np

    slots = [row.slots for row in rows]
    return np.array(_slot_errors(predicted, slots, {slot for each in slots for slot in each}), dtype=np.int64)


def slot_accuracy(sums_S: np.ndarray) -> float:
    """1 less the slot error rate of texts whose `slot_counts` add up to `sums_S`."""
    return 1 - likeness.share(sums_S)


def _slot_errors(
    texts: Sequence[str], slots: Sequence[Slots], known: Iterable[tuple[str, str]]
) -> list[tuple[int, int]]:
    """(missing and wrong values, values asked for) of each text."""
    telling, found = {_words(value) for _, value in known if units.several_words(value)}, []
    for text, own in zip(texts, slots, strict=True):
        said, wanted = _words(text), [_words(value) for _, value in own if value.lower() not in UNSAYABLE]
        allowed = "".join(wanted)
        missing = sum(words not in said for words in wanted)
        wrong = sum(words in said and words not in allowed for words in telling)
        found.append((missing + wrong, len(wanted)))
    return found


def _words(text: str) -> str:
    """The text, folded, with a space around every word, character and sign, so that values are found as substrings."""
    return f" {' '.join(units.terms(units.folded(text)))} "
