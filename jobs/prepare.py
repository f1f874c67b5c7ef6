"""Check the training and validation rows and tokenise them once.

    ray job submit --working-dir . -- python -m jobs.prepare --config configs/intent.yaml

Writes <output>/prepared: Parquet shards with lengths. Rows that did not change are not tokenised again. With
`data.unlabelled` or `distillation.pool.rows` also <output>/pool: rows without labels, for students alone; for a
`student.model` with a tokenizer of its own also <output>/prepared_student.
Texts that are in two splits or have two labels are counted and told, and so is what the tokenizer does not know. Of the
test file nothing is read here, with `data.on_leak` drop or refuse hashes of its texts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import session, tracking
from cluster.session import JobError
from configs.folder import commit, digest_json
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.command import Result, main
from jobs.data import audit, leaks
from jobs.data.leaks import HASHES, Hashes
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared, has_key, readings_of
from jobs.data.source import Split, has_test, hashes
from jobs.data.tokenise import Plan
from jobs.layout import output, pool_folder
from jobs.preflight import check_given
from jobs.versions import behaviour

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `prepare`."""
    with tracking.run(
        "prepare", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        prepared = prepare(recipe)
        prepare_student(recipe, prepared)
        run.tag(slimcart__data=prepared.key)
        metrics = summary(prepared)
        run.metrics.log(metrics)
    return Result("prepare", run.id, output(recipe), metrics)


def prepare(recipe: Recipe) -> Prepared:
    """The prepared rows of a recipe, made or found. Raises `UsageError` for a bad row before any worker starts."""
    from jobs.data.pool import make_pool
    from jobs.data.tokenise import checked

    check_given("teacher.bundle", recipe.teacher.bundle)
    tables, pool = _checked(recipe), pool_folder(recipe)
    unlabelled = checked(recipe.data, "unlabelled", tables.seen) if recipe.data.unlabelled else None
    plan = named(recipe.judged_by.plan)(recipe, tables.train, tables.validation)
    found = audit.tell_leaks(recipe.data, tables.seen, labelled=bool(plan.labels))
    prepared = _prepared(recipe, tables, plan, "prepared", audit.about(tables.seen, found, ["train", "validation"]))
    field = "bundle" if recipe.teacher.bundle else "model"
    audit.check_readings(recipe.data, prepared, f"teacher.{field}: {getattr(recipe.teacher, field)}")
    if pool is None:
        return prepared
    spec = recipe.distillation.pool
    made = make_pool(
        pool, prepared, spec, recipe.seed, tables.train, tables.validation, unlabelled, tables.seen.get("unlabelled")
    )
    if unlabelled:
        made = audit.note(made, audit.about(tables.seen, found, ["unlabelled"]))
    return replace(prepared, pool=made)


def prepare_student(recipe: Recipe, prepared: Prepared) -> Prepared:
    """The rows for the student: `prepared`, or the same rows in <output>/prepared_student in the student's own tokens.

    Row for row the same, so what the teacher said of a text goes with it. Raises `UsageError` where more than that is
    to be learned of the teacher than its logits.
    """
    if (model := recipe.student.model) is None:
        return prepared
    from jobs.models.encoder import load_tokenizer

    plan = named(recipe.judged_by.plan_of_student)(recipe, prepared, load_tokenizer(model, "student.model"))
    if plan is None:
        return prepared
    tables = _checked(recipe)
    if tables.fingerprints != prepared.manifest["fingerprints"]:
        raise JobError(f"data.train, data.validation: changed since {prepared.folder} was made; run it again")
    said = {name: prepared.manifest[name] for name in ("findings", "left_out")}
    own = _prepared(recipe, tables, plan, "prepared_student", said)
    audit.check_readings(recipe.data, own, f"student.model: {model}")
    return own


class _Tables(NamedTuple):
    train: pyarrow.Table
    validation: pyarrow.Table
    fingerprints: dict[str, str]
    seen: dict[Split, Hashes]  # of these, and of the test rows where some were left out for them


def _checked(recipe: Recipe) -> _Tables:
    from jobs.data.tokenise import checked

    seen: dict[Split, Hashes] = {}
    if recipe.data.on_leak == "drop" and has_test(recipe.data):
        seen["test"] = hashes(recipe.data, "test")
    validation, validation_digest = checked(recipe.data, "validation", seen)
    train, train_digest = checked(recipe.data, "train", seen)
    return _Tables(train, validation, {"train": train_digest, "validation": validation_digest}, seen)


def _prepared(recipe: Recipe, tables: _Tables, plan: Plan, name: str, said: Mapping[str, Any]) -> Prepared:
    """<output>/`name`, made or found; its manifest also has what is `said` of the rows."""
    from jobs.data.tokenise import write_shards

    folder, (train, validation, fingerprints, seen) = Path(output(recipe), name), tables
    key = digest_json({"fingerprints": fingerprints, **plan.key, **behaviour("prepare")})

    def fill(aside: Path) -> dict[str, Any]:
        tokenizer, tokenise = plan.make()
        tokenizer.save(str(aside / TOKENIZER))
        write_shards([train, validation], aside / ROWS, tokenise)
        leaks.write(aside / HASHES, {split: seen[split] for split in ("train", "validation")})
        return {
            "key": key,
            "task": recipe.task,
            "fingerprints": fingerprints,
            "labels": plan.labels,
            "max_length": recipe.data.max_length,
            "pairs": recipe.data.text_pair is not None,
            "attributes": any(train["attributes"].unique().to_pylist()),
            "rows": {"train": len(train), "validation": len(validation)},
            "readings": readings_of(aside / ROWS),
            **said,
        } | plan.facts

    if has_key(folder, MANIFEST, key):
        log.info("prepared rows are there already, unchanged: %s", folder)
    else:
        log.info("tokenising %d training and %d validation rows", len(train), len(validation))
        commit(folder, MANIFEST, fill)
    return audit.note(Prepared.open(folder), said)


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


if __name__ == "__main__":
    main(run)
