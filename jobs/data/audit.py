"""Faults of the rows: logged, refused where the recipe wants it, and kept in manifests.

Messages hold counts and lines, never a text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from configs.folder import write_manifest
from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data import leaks
from jobs.data.leaks import Finding, Hashes
from jobs.data.prepared import MANIFEST, Prepared, Readings
from jobs.data.source import Split, has_test, hashes, place

CHANGED = "changed"  # entry of a manifest: share of the answers that a tokenizer does not give back, and why
MUCH_UNKNOWN = 0.05  # share of unknown tokens above which it is logged

log = logging.getLogger(__name__)


def tell_leaks(data: DataSpec, seen: Mapping[Split, Hashes], labelled: bool) -> dict[str, list[Finding]]:
    """Log and return, by split, the texts that the rows of each split but the test share.

    `labelled`: labels are classes. Raises `UsageError` for texts in two splits where `data.on_leak` refuses them.
    """
    findings = {split: leaks.findings(seen, split, labelled) for split in leaks.ORDER[:-1] if split in seen}
    every = [each for some in findings.values() for each in some]
    if data.on_leak == "refuse":
        tested = {**seen, "test": hashes(data, "test")} if has_test(data) else None
        leaked = [each for each in [*every, *(leaks.findings(tested, "test", False) if tested else ())] if each.is_leak]
        if leaked:
            said = "; ".join(each.same_words for each in leaked)
            raise UsageError(f"data.on_leak: refuse: {said}; remove them, or use drop")
    warn(every)
    for split, each in seen.items():
        if each.left_out:
            log.warning("left out by data.on_leak=drop: %d rows of %s", len(each.left_out), place(data, split))
    return findings


def look_at_test(data: DataSpec, prepared: Prepared) -> None:
    """Log which test rows have the text of a prepared row; there are none with `data.on_leak` = drop or refuse."""
    if data.on_leak == "warn" and has_test(data):
        tested = {**prepared.hashes(), "test": hashes(data, "test")}
        warn([each for each in leaks.findings(tested, "test", labelled=False) if each.is_leak])


def warn(found: Sequence[Finding]) -> None:
    """Log the findings; texts that customers often write alike are no warning."""
    for each in found:
        if each.same:
            log.log(logging.WARNING if each.is_leak else logging.INFO, "%s", each.same_words)
        if each.contradicting:
            log.warning("%s", each.contradicting_words)
    if any(each.is_leak for each in found):
        log.warning("a model that learned such a row proves nothing by its answer; data.on_leak=drop leaves it out")


def about(
    seen: Mapping[Split, Hashes], found: Mapping[str, Sequence[Finding]], splits: Sequence[Split]
) -> dict[str, Any]:
    """Entries about the texts of some splits, for their manifest."""
    return {
        "findings": [each._asdict() for split in splits for each in found[split]],
        "left_out": {split: len(seen[split].left_out) for split in splits},
    }


def note(prepared: Prepared, said: Mapping[str, Any]) -> Prepared:
    """The same rows with the entries `said` in their manifest: rows left out beside them may have changed."""
    if all(prepared.manifest.get(name) == value for name, value in said.items()):
        return prepared
    write_manifest(prepared.folder / MANIFEST, {**prepared.manifest, **said})
    return Prepared.open(prepared.folder)


def check_readings(data: DataSpec, prepared: Prepared, model: str) -> None:
    """Log the shares of tokens that the tokenizer of `model`, 'teacher.model: name', does not know, and of cut texts.

    Raises `UsageError` where more is unknown than `data.max_unknown`, or changed than `data.max_changed`.
    """
    check_changed(data, prepared.manifest, model)
    for split in ("train", "validation"):
        read = prepared.readings(split)
        check_unknown(data, split, read, model)
        warn_of_readings(read, place(data, split), model, prepared.manifest["max_length"])


def check_changed(data: DataSpec, facts: Mapping[str, Any], model: str) -> None:
    """Raise `UsageError` where more of the answers is changed, as `facts` of the rows say, than `data.max_changed`."""
    changed = facts.get(CHANGED)
    if changed and changed["share"] > data.max_changed:
        raise UsageError(
            f"{model}: its tokenizer does not give back the answers of {place(data, 'train')} as they are, "
            f"{changed['words']}: no model could write them, and data.max_changed={data.max_changed:g}; give a model "
            "whose tokenizer keeps every text, such as one of bytes, change the answers, or raise data.max_changed"
        )


def check_unknown(data: DataSpec, split: Split, read: Readings, model: str) -> None:
    """Raise `UsageError` where more of the tokens `read` is unknown than `data.max_unknown`."""
    if read.unknown_share > data.max_unknown:
        raise UsageError(
            f"{model}: its tokenizer does not know {read.unknown_share:.1%} of the tokens of {place(data, split)}, "
            f"more than data.max_unknown={data.max_unknown:g}: it cannot read these texts; give a model that was "
            "trained in their language, such as a multilingual encoder, or raise data.max_unknown"
        )


def warn_of_readings(read: Readings, at: str, model: str, max_length: int) -> None:
    """Log a tokenizer's counts over some rows; `at` names the rows and `model` the tokenizer."""
    if read.unknown_share > MUCH_UNKNOWN:
        log.warning(
            "%s: %.1f %% of the tokens are unknown to %s; a model that was trained in their language knows them",
            at,
            100 * read.unknown_share,
            model,
        )
    if read.cut:
        log.info("%s: %d of %d texts are longer than %d tokens and cut", at, read.cut, read.rows, max_length)
    if read.unread:
        log.warning(
            "%s: of %d of %d texts nothing is known to %s; all are answered alike", at, read.unread, read.rows, model
        )


def record(
    found: Sequence[Finding], readings: Mapping[str, Readings], left_out: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The report's part about the rows: figures of each split, and sentences."""
    splits: dict[str, dict[str, float]] = {}
    for each in found:
        if each.split == each.other:
            splits[each.split] = {"rows": each.rows, "repeated": each.same, "contradicting": each.contradicting}
            if read := readings.get(each.split):
                splits[each.split] |= {"unknown_share": read.unknown_share, "cut_share": read.cut_share}
    words = [each.same_words for each in found if each.is_leak]
    words += [each.contradicting_words for each in found if each.contradicting]
    for split, count in (left_out or {}).items():
        if count:
            words.append(f"left out by data.on_leak=drop: {count} rows of data.{split}")
    return {"splits": splits, "words": words}


def record_of(prepared: Prepared) -> dict[str, Any]:
    """`record` of prepared rows."""
    readings = {split: prepared.readings(split) for split in ("train", "validation")}
    pool = {} if prepared.pool is None else prepared.pool.manifest.get("left_out", {})
    return record(prepared.findings, readings, {**prepared.manifest["left_out"], **pool})


def faults(prepared: Prepared) -> dict[str, float]:
    """Faults of the rows as metrics; the shares are of training and validation rows together."""
    both = prepared.readings("train", "validation")
    return {"unknown_share": both.unknown_share, "cut_share": both.cut_share, **leaks.totals(prepared.findings)}
