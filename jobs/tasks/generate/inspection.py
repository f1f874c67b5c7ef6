"""What a decoder's tokenizer makes of rows to learn from, asked before any of them is trained on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data import audit
from jobs.data.round_trip import Losses, losses
from jobs.data.source import Split, place
from jobs.data.tokenise import prompts_of

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer

ROWS_PER_CALL = 4096  # encodings take ten times what is kept of them
MOST_CUT = 0.5  # share of answers without their end: a model of them would hardly ever end one
HELD = 99  # percent of the rows that the length in a message would hold

log = logging.getLogger(__name__)


def inspect(
    tables: Mapping[Split, pyarrow.Table],
    tokenizer: Tokenizer,
    data: DataSpec,
    model: str,
    template: str | None = None,
) -> dict[str, Any]:
    """Refuse rows that a decoder could not learn to answer, and log what it will learn to answer otherwise.

    `model` names the tokenizer, 'teacher.model: name'; `template`: see `prompts_of`. Raises `UsageError` for a prompt
    that leaves no room for its answer or of which no token is left, where most answers are cut before their end, and
    where the tokenizer gives back fewer answers than `data.max_changed` allows. Returns entries of the manifest.
    """
    facts: dict[str, Any] = {}
    for split, table in tables.items():
        lengths, lost = _read(split, table, tokenizer, data, model, template)
        _tell_cut(lengths, split, data)
        if split == "train" and lost.changed:
            facts = {audit.CHANGED: {"share": lost.share, "words": str(lost)}}
            audit.check_changed(data, facts, model)
            at = place(data, split)
            log.warning("%s: the tokenizer of %s does not give back the answers as they are, %s", at, model, lost)
    return facts


def _read(
    split: Split, table: pyarrow.Table, tokenizer: Tokenizer, data: DataSpec, model: str, template: str | None
) -> tuple[np.ndarray, Losses]:
    """(tokens of each row with its end, what is lost of the answers)."""
    lengths: list[int] = []
    rows, causes = 0, Counter[str]()
    for start in range(0, len(table), ROWS_PER_CALL):
        part = table.slice(start, ROWS_PER_CALL)
        answers = part["label"].to_pylist()
        prompts = prompts_of(part, template)
        before, after = (tokenizer.encode_batch(texts, add_special_tokens=False) for texts in (prompts, answers))
        for number, encoding in enumerate(before, start + 1):
            if not len(encoding):
                raise UsageError(
                    f"{place(data, split)}: row {number}: the tokenizer of {model} keeps nothing of its prompt; remove "
                    "the row"
                )
            if len(encoding) >= data.max_length:
                raise UsageError(
                    f"data.max_length: {data.max_length}: the prompt of row {number} of data.{split} alone has "
                    f"{len(encoding)} tokens; raise it, or remove the row"
                )
        lengths += [len(first) + len(second) + 1 for first, second in zip(before, after, strict=True)]
        some = losses(tokenizer, answers, after)
        rows, causes = rows + some.rows, causes + some.causes
    return np.array(lengths), Losses(rows, causes.total(), causes)


def _tell_cut(lengths: np.ndarray, split: Split, data: DataSpec) -> None:
    cut = int((lengths > data.max_length).sum())
    if not cut:
        return
    said = f"{cut} of {len(lengths)} answers of {place(data, split)} before their end"
    enough = int(np.percentile(lengths, HELD, method="higher"))
    said = f"{said}; {enough} tokens would hold {HELD} % of the rows"
    if cut > MOST_CUT * len(lengths):
        raise UsageError(f"data.max_length: {data.max_length}: cuts {said}; raise it, or shorten the answers")
    log.warning("data.max_length=%d cuts %s", data.max_length, said)
