"""Rows without labels that students learn from beside the training rows: unlabelled ones, and augmented ones."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from configs.folder import commit, digest_json
from configs.loader import UsageError
from configs.schema.data import PoolSpec
from jobs.data import leaks, tokenise
from jobs.data.augment import Inputs, augmented, normal
from jobs.data.leaks import HASHES, Hashes
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared, has_key
from jobs.versions import behaviour
from serving import units

if TYPE_CHECKING:
    import pyarrow

MASKS = ("[MASK]", "<mask>")  # mask tokens of the families of BERT and RoBERTa
UNLABELLED = "unlabelled"

log = logging.getLogger(__name__)


def make_pool(
    folder: Path,
    prepared: Prepared,
    spec: PoolSpec,
    seed: int,
    train: pyarrow.Table,
    validation: pyarrow.Table,
    unlabelled: tuple[pyarrow.Table, str] | None,
    seen: Hashes | None = None,
) -> Prepared:
    """Make the pool that goes with the `prepared` rows in `folder`, or open it where it is there.

    The tables are as `checked` gives them, `unlabelled` with its fingerprint; `seen`, the hashes of its rows, are kept
    beside the rows. No row of the pool is a training or validation row, and no two are the same. The manifest counts
    the rows of each operation.
    """
    fingerprint = unlabelled and unlabelled[1]
    parts = {"prepared": prepared.key, "pool": spec.model_dump(), UNLABELLED: fingerprint}
    key = digest_json(parts | {"seed": seed} | behaviour("pool"))
    if has_key(folder, MANIFEST, key):
        log.info("the pool is there already, unchanged: %s", folder)
        return Prepared.open(folder)
    tokenizer = Tokenizer.from_file(str(prepared.folder / TOKENIZER))
    rows = pool_rows(
        tokenizer, spec, seed, inputs(train), inputs(validation), inputs(unlabelled[0]) if unlabelled else []
    )
    counts = Counter(operation for operation, _ in rows)
    made_by = ", ".join(f"{name} {count}" for name, count in counts.items())
    log.info("pool: %d rows (%s); units: %s", len(rows), made_by, units.said(text for text, _ in inputs(train)))
    if len(rows) - counts[UNLABELLED] < spec.rows:
        log.warning("pool: distillation.pool.rows=%d asks for more than these rows can give", spec.rows)

    def fill(aside: Path) -> dict[str, Any]:
        encode = functools.partial(tokenise.tokenise_classes, tokenizer_json=tokenizer.to_str(), labels=prepared.labels)
        tokenise.write_shards([_table([row for _, row in rows])], aside / ROWS, encode)
        if seen is not None:
            leaks.write(aside / HASHES, {UNLABELLED: seen})
        return {"key": key, "rows": {"train": len(rows)}, "made_by": dict(counts)}

    commit(folder, MANIFEST, fill)
    return Prepared.open(folder)


def pool_rows(
    tokenizer: Tokenizer,
    spec: PoolSpec,
    seed: int,
    train: Sequence[Inputs],
    validation: Sequence[Inputs],
    unlabelled: Sequence[Inputs],
) -> list[tuple[str, Inputs]]:
    """(operation, row) of every row of the pool: the new unlabelled rows, then the augmented ones.

    Raises `UsageError` where there is none, or where rows are to be masked and the tokenizer has no mask token.
    """
    mask = mask_token(tokenizer)
    if spec.rows and spec.mask_words and mask is None:
        raise UsageError(
            f"distillation.pool.mask_words: {spec.mask_words:g}: the teacher's tokenizer has no mask token "
            f"({', '.join(MASKS)}); set it to 0"
        )
    extra = list(new_rows(unlabelled, [*train, *validation]))
    known = list(cut_to_length([*train, *extra, *validation], tokenizer))
    sources = known[: len(train) + len(extra)]
    rows = [*((UNLABELLED, row) for row in extra), *augmented(sources, known, spec, mask, seed)]
    if not rows:
        raise UsageError(
            "distillation.pool: nothing new can be made of these rows, or all unlabelled ones are training or "
            "validation rows; leave it out"
        )
    return rows


def inputs(table: pyarrow.Table) -> list[Inputs]:
    """The texts of a table, without their labels."""
    return list(zip(table["text"].to_pylist(), table["pair"].to_pylist(), strict=True))


def new_rows(rows: Iterable[Inputs], known: Iterable[Inputs]) -> Iterator[Inputs]:
    """The rows that are not `known`, each once."""
    seen = set(map(normal, known))
    for row in rows:
        if (same := normal(row)) not in seen:
            seen.add(same)
            yield row


def cut_to_length(rows: Sequence[Inputs], tokenizer: Tokenizer) -> Iterator[Inputs]:
    """The rows without the ends that the tokenizer truncates: no model would see changes there."""
    for start in range(0, len(rows), tokenise.ROWS_PER_CALL):
        some = rows[start : start + tokenise.ROWS_PER_CALL]
        texts: list[Any] = [text if pair is None else (text, pair) for text, pair in some]
        for (text, pair), encoding in zip(some, tokenizer.encode_batch(texts), strict=True):
            if not encoding.overflowing:
                yield text, pair
                continue
            ends = [0, 0]
            for (_, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True):
                if sequence is not None:
                    ends[sequence] = max(ends[sequence], end)
            yield text[: ends[0]], None if pair is None else pair[: ends[1]]


def mask_token(tokenizer: Tokenizer) -> str | None:
    """The tokenizer's token for a hidden word, as it is written in a text."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return next((mask for mask in MASKS if mask in known), None)


def _table(rows: Sequence[Inputs]) -> pyarrow.Table:
    """A table as `checked` gives it, of rows without a label."""
    import pyarrow

    texts, pairs = zip(*rows, strict=True)
    return pyarrow.table(
        {
            "split": pyarrow.array(["train"] * len(rows), pyarrow.string()),
            "row": pyarrow.array(range(len(rows)), pyarrow.int64()),
            "text": pyarrow.array(texts, pyarrow.large_string()),
            "pair": pyarrow.array(pairs, pyarrow.large_string()),
            "label": pyarrow.nulls(len(rows), pyarrow.string()),
        }
    )
