"""What is wrong with the rows of the final evaluation: counted and said. None is left out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.folder import FolderError
from configs.schema.recipe import Recipe
from jobs.data import audit, leaks
from jobs.data.leaks import Hashes
from jobs.data.prepared import Prepared, Readings
from jobs.data.source import Row, Split, place
from jobs.data.tokenise import ROWS_PER_CALL
from jobs.measure.answers import input_of
from jobs.models.reference import read_tokenizer
from serving.bundle import Bundle
from serving.conversation import Conversation, read_conversation
from serving.inputs import prompt, reading, unknown_id

log = logging.getLogger(__name__)


def audit_test_rows(
    recipe: Recipe, bundle: Path, description: Bundle, test: Iterable[Row], seen: Mapping[Split, Hashes]
) -> tuple[dict[str, Any], dict[str, float]]:
    """(record, metrics): test rows with a text that was learned from or has two labels, unknown tokens, cut texts.

    `seen` has the hashes of the `test` rows, at the latest when the last of them was read.
    A `bundle` of another output is not known to have learned from any rows.
    """
    read = _read(bundle, description, test)
    known = _learned_from(recipe, description)
    if not known:
        log.info("what the bundle learned from is not in this output: test rows are compared with one another alone")
    found = leaks.findings({**known, **seen}, "test", labelled=bool(description.labels))
    audit.warn(found)
    audit.warn_of_readings(read, place(recipe.data, "test"), f"the tokenizer of {bundle}", description.max_length)
    metrics = {"test_unknown_share": read.unknown_share, "test_cut_share": read.cut_share}
    metrics |= {f"test_{name}": value for name, value in leaks.totals(found).items()}
    return audit.record(found, {"test": read}), metrics


def _learned_from(recipe: Recipe, description: Bundle) -> dict[str, Hashes]:
    """Hashes of what a bundle learned from and was chosen by; none where those are not the rows of this output."""
    assert recipe.output is not None
    keys, found = set(), {}
    for name in ("prepared_student", "prepared"):
        folder, pool = Path(recipe.output, name), Path(recipe.output, "pool")
        try:
            prepared = Prepared.open(folder, pool if recipe.has_pool else None)
        except FolderError:
            continue
        keys.add(prepared.key)
        found = prepared.hashes()
    second = description.provenance.get("second") or {}  # of a cascade
    data = description.provenance.get("data") or second.get("provenance", {}).get("data")
    return found if recipe.bundle is None or data in keys else {}


def _read(bundle: Path, description: Bundle, test: Iterable[Row]) -> Readings:
    """What the bundle's tokenizer makes of the test rows: in a cascade that of the second model, of a decoder's rows
    the prompts."""
    tokenizer = read_tokenizer(bundle / description.tokenizer)
    tokenizer.enable_truncation(description.max_length)
    unknown, writes = unknown_id(tokenizer), not description.labels
    conversation = read_conversation(bundle, description, tokenizer)
    left, counts = iter(test), Readings(0, 0, 0, 0)
    while some := list(itertools.islice(left, ROWS_PER_CALL)):
        texts: list[Any] = [_asked(row, writes, conversation) for row in some]
        for each in tokenizer.encode_batch(texts, add_special_tokens=not writes):
            read = reading(each, unknown)
            counts = Readings(*map(sum, zip(counts, (1, *read, not read.tokens), strict=True)))
    return counts


def _asked(row: Row, writes: bool, conversation: Conversation | None) -> Any:
    if conversation:
        return conversation.of_input(row.input, 0)
    return prompt(row.text, row.pair) if writes else input_of(row)
