"""Checked rows as tokenised shards: what the prepared folders hold, and what they depend on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.session import JobError
from configs.folder import commit, digest_json, only_maker
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.data import audit, leaks
from jobs.data.leaks import HASHES, Finding, Hashes
from jobs.data.plan import Learner, Plan
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, WORDING, Prepared, has_key, readings_in, readings_of
from jobs.data.source import Split, has_test, hashes
from jobs.layout import pool_folder, prepared_folder, student_rows_folder
from jobs.versions import behaviour
from serving.bundle import CHAT_TEMPLATE

if TYPE_CHECKING:
    import pyarrow

SAMPLED_ROWS = 2_000  # of which a tokenizer must know enough before all are tokenised

log = logging.getLogger(__name__)


class _Tables(NamedTuple):
    train: pyarrow.Table
    validation: pyarrow.Table
    fingerprints: dict[str, str]
    seen: dict[Split, Hashes]  # of these, and of the test rows where some were left out for them
    wording: str | None  # the file `WORDING`
    redact: dict[str, Any] | None  # what was replaced in them, as bundles say it


class Source(NamedTuple):
    """The checked rows of a recipe, and how they become tokens."""

    tables: _Tables
    unlabelled: tuple[pyarrow.Table, str] | None
    plan: Plan
    findings: dict[str, list[Finding]]

    @property
    def key(self) -> str:
        """Digest of what the prepared rows depend on."""
        return _key_of(self.tables, self.plan)


def read(recipe: Recipe) -> Source:
    """Raises `UsageError` for a bad row before any worker starts."""
    from jobs.data.tokenise import checked

    tables = _checked(recipe)
    unlabelled = checked(recipe.data, "unlabelled", tables.seen) if recipe.data.unlabelled else None
    plan: Plan = named(recipe.judged_by.plan)(recipe, tables.train, tables.validation)
    findings = audit.tell_leaks(recipe.data, tables.seen, labelled=bool(plan.labels))
    return Source(tables, unlabelled, plan, findings)


def opened(recipe: Recipe, source: Source) -> Prepared | None:
    """The prepared rows with the pool that belongs to them, which is made where it is not there; None without rows."""
    from jobs.data.pool import make_pool

    (tables, unlabelled, _, findings), folder = source, prepared_folder(recipe)
    if not has_key(folder, MANIFEST, source.key):
        return None
    prepared = audit.note(Prepared.open(folder), _said(source))
    audit.check_readings(recipe.data, prepared, recipe.teacher.origin)
    if (place := pool_folder(recipe)) is None:
        return prepared
    with only_maker(place):
        pool = make_pool(
            place,
            prepared,
            recipe.distillation.pool,
            recipe.seed,
            tables.train,
            tables.validation,
            unlabelled,
            tables.seen.get("unlabelled"),
        )
        if unlabelled:
            pool = audit.note(pool, audit.about(tables.seen, findings, ["unlabelled"]))
    return replace(prepared, pool=pool)


def write(recipe: Recipe, source: Source) -> None:
    """Tokenise the rows into <output>/prepared."""
    _write(recipe, source.tables, source.plan, prepared_folder(recipe), _said(source), recipe.teacher.origin)


def prepare_student(recipe: Recipe, prepared: Prepared) -> Prepared:
    """The rows for the student: `prepared`, or the same rows in <output>/prepared_student in the student's own tokens.

    They are the same row for row, so what the teacher said of a text goes with it. Raises `UsageError` where more than
    that is to be learned of the teacher than its logits.
    """
    if (model := recipe.student.model) is None:
        return prepared
    plan = named(recipe.judged_by.plan_of_student)(recipe, prepared)
    if plan is None:
        return prepared
    tables = _checked(recipe)
    if tables.fingerprints != prepared.manifest["fingerprints"]:
        raise JobError(f"data.train, data.validation: changed since {prepared.folder} was made; run it again")
    said = {name: prepared.manifest[name] for name in ("findings", "left_out")}
    folder = student_rows_folder(recipe)
    with only_maker(folder):
        if not has_key(folder, MANIFEST, _key_of(tables, plan)):
            _write(recipe, tables, plan, folder, said, f"student.model: {model}")
        own = audit.note(Prepared.open(folder), said)
    audit.check_readings(recipe.data, own, f"student.model: {model}")
    return own


def _said(source: Source) -> dict[str, Any]:
    return audit.about(source.tables.seen, source.findings, ["train", "validation"])


def _key_of(tables: _Tables, plan: Plan) -> str:
    redacted = {"redact": tables.redact} if tables.redact else {}
    return digest_json({"fingerprints": tables.fingerprints, **redacted, **plan.key, **behaviour("prepare")})


def _checked(recipe: Recipe) -> _Tables:
    from jobs.data.tokenise import checked

    seen: dict[Split, Hashes] = {}
    if recipe.data.on_leak == "drop" and has_test(recipe.data):
        seen["test"] = hashes(recipe.data, "test")
    validation, validation_digest = checked(recipe.data, "validation", seen)
    learner: Learner | None = named(wording)() if (wording := recipe.judged_by.wording) else None
    train, train_digest = checked(recipe.data, "train", seen, learner.see if learner else None)
    fingerprints = {"train": train_digest, "validation": validation_digest}
    redaction = recipe.data.redaction
    redact = redaction.model_dump() if redaction else None
    return _Tables(train, validation, fingerprints, seen, learner.learned() if learner else None, redact)


def _write(recipe: Recipe, tables: _Tables, plan: Plan, folder: Path, said: Mapping[str, Any], at: str) -> None:
    """Write a folder of prepared rows; its manifest also has what is `said` of the rows. `at`: as in `write_shards`."""
    from jobs.data.tokenise import write_shards

    train, validation, fingerprints, seen, wording, redact = tables

    def fill(aside: Path) -> dict[str, Any]:
        tokenizer, tokenise, facts, template = plan.make()
        tokenizer.save(str(aside / TOKENIZER), pretty=False)
        some: dict[Split, pyarrow.Table] = {"train": _some(train), "validation": _some(validation)}
        for split, table in some.items():
            audit.check_unknown(recipe.data, split, readings_in(tokenise(table))[split], at)
        write_shards([train, validation], aside / ROWS, tokenise, at)
        if template is not None:
            (aside / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        if wording is not None:
            (aside / WORDING).write_text(wording, encoding="utf-8")
        leaks.write(aside / HASHES, {split: seen[split] for split in ("train", "validation")})
        return {
            "key": _key_of(tables, plan),
            "task": recipe.task,
            "fingerprints": fingerprints,
            "labels": plan.labels,
            "max_length": recipe.data.max_length,
            "pairs": recipe.data.text_pair is not None,
            "chat_template": template and CHAT_TEMPLATE,
            "attributes": any(train["attributes"].unique().to_pylist()),
            **({"redact": redact} if redact else {}),
            "rows": {"train": len(train), "validation": len(validation)},
            "readings": readings_of(aside / ROWS),
            **said,
            **facts,
        } | plan.facts

    log.info("tokenising %d training and %d validation rows", len(train), len(validation))
    commit(folder, MANIFEST, fill)


def _some(table: pyarrow.Table) -> pyarrow.Table:
    """Rows from all over the table: what most of them would be refused for is refused before any worker starts."""
    step = max(1, len(table) // SAMPLED_ROWS)
    return table.take(list(range(0, len(table), step)))


def summary(prepared: Prepared) -> dict[str, float]:
    """Rows, classes (if there are any), tokens, and what is wrong with them, as metrics."""
    metrics: dict[str, float] = {"classes": len(prepared.labels)} if prepared.labels else {}
    for split in ("train", "validation"):
        examples = prepared.examples(split)
        metrics |= {f"{split}_rows": len(examples), f"{split}_tokens": len(examples.ids)}
        metrics[f"{split}_mean_tokens"] = len(examples.ids) / len(examples)
    if prepared.pool is not None:
        metrics["pool_rows"] = prepared.pool.manifest["rows"]["train"]
    return metrics | audit.faults(prepared)
