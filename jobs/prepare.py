"""Check the training and validation rows and tokenise them once.

    ray job submit --working-dir . -- python -m jobs.prepare --config configs/intent.yaml

Writes <output>/prepared: Parquet shards with lengths. Rows that did not change are not tokenised again. With
`data.unlabelled` or `distillation.pool.rows` also <output>/pool: rows without labels, for students alone; for a
`student.model` with a tokenizer of its own also <output>/prepared_student.
Texts that are in two splits or have two labels are counted and told, and so is what the tokenizer does not know. Of the
test file nothing is read here, with `data.on_leak` drop or refuse hashes of its texts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster import session, tracking
from cluster.session import JobError
from configs.folder import commit, digest_json
from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data import audit, leaks
from jobs.data.leaks import HASHES, Hashes
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared, has_key, readings_of
from jobs.data.source import Split, has_test, hashes, shown
from jobs.layout import output, pool_folder
from jobs.models.reference import read_reference, read_tokenizer
from jobs.preflight import check_given
from jobs.versions import behaviour
from serving.inputs import prompt

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer

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
    plan = (_classes if recipe.task == "classify" else _completions)(recipe, tables.train, tables.validation)
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
    from jobs.models.decoder import end_of
    from jobs.models.encoder import check_length, load_tokenizer

    tokenizer = load_tokenizer(model, "student.model")
    if recipe.task == "classify":
        check_length(model, recipe.data.max_length, "student.model")
    if tokenizer.to_str() == read_tokenizer(prepared.folder / TOKENIZER).to_str():
        if recipe.task == "generate" and (end := end_of(model, "student.model")) != prepared.manifest["end"]:
            raise UsageError(f"student.model: {model}: ends a text with token {end}, not as the teacher does")
        return prepared
    _refuse_what_needs_the_teachers_tokens(recipe)
    tables = _checked(recipe)
    if tables.fingerprints != prepared.manifest["fingerprints"]:
        raise JobError(f"data.train, data.validation: changed since {prepared.folder} was made; run it again")
    plan = _plan_of_classes(recipe, tokenizer, prepared.labels)
    said = {name: prepared.manifest[name] for name in ("findings", "left_out")}
    own = _prepared(recipe, tables, plan, "prepared_student", said)
    audit.check_readings(recipe.data, own, f"student.model: {model}")
    return own


def _refuse_what_needs_the_teachers_tokens(recipe: Recipe) -> None:
    other = f"student.model: {recipe.student.model}: has another tokenizer than the teacher"
    if recipe.task == "generate":
        raise UsageError(f"{other}, whose stored tokens it cannot learn to say; give one with the teacher's tokenizer")
    if bound := next(iter(recipe.distillation.inside), None):
        raise UsageError(f"{other}, and distillation.weights.{bound} compares them token by token; set it to 0")
    if recipe.has_pool:
        raise UsageError(f"{other}, in whose tokens the pool is; leave out data.unlabelled and distillation.pool")


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


class Plan(NamedTuple):
    """How the rows of a task become tokens."""

    key: dict[str, Any]  # what the tokens depend on beside the rows
    make: Callable[[], tuple[Tokenizer, Callable[[pyarrow.Table], pyarrow.Table]]]
    labels: list[str]
    facts: dict[str, Any]  # further entries of the manifest


def _classes(recipe: Recipe, train: pyarrow.Table, validation: pyarrow.Table) -> Plan:
    from jobs.data.tokenise import classes
    from jobs.models.encoder import check_length, grades_of, load_tokenizer

    labels = classes(train, {"validation": validation}, recipe.data)
    if recipe.teacher.head == "grades":
        grades_of(labels)  # refused now, not by the first worker
    if recipe.teacher.bundle:
        labels, tokenizer = known_to(Path(recipe.teacher.bundle), train["label"].to_pylist())
    else:
        tokenizer = load_tokenizer(recipe.teacher.model)
        check_length(recipe.teacher.model, recipe.data.max_length)
    return _plan_of_classes(recipe, tokenizer, labels)


def _plan_of_classes(recipe: Recipe, tokenizer: Tokenizer, labels: list[str]) -> Plan:
    from jobs.data.tokenise import tokenise_classes

    tokenizer.enable_truncation(recipe.data.max_length)
    tokenise = functools.partial(tokenise_classes, tokenizer_json=tokenizer.to_str(), labels=labels)
    return Plan({"tokenizer": tokenizer.to_str(), "labels": labels}, lambda: (tokenizer, tokenise), labels, {})


def _completions(recipe: Recipe, train: pyarrow.Table, validation: pyarrow.Table) -> Plan:
    from jobs.data.tokenise import END, tokenise_completions, train_tokenizer
    from jobs.models.decoder import end_of
    from jobs.models.encoder import load_tokenizer

    data, teacher = recipe.data, recipe.teacher
    if teacher.bundle:
        reference = read_reference(Path(teacher.bundle), "python -m jobs.finetune")
        tokenizer, end = read_tokenizer(Path(teacher.bundle) / reference.tokenizer), end_of(teacher.bundle)
        source = tokenizer.to_str()
    elif teacher.model.startswith(NEW):
        tokenizer, end = None, 0
        source = f"{teacher.new.vocabulary} tokens learned from the training rows"
    else:
        tokenizer, end = load_tokenizer(teacher.model), end_of(teacher.model)
        source = tokenizer.to_str()

    def make() -> tuple[Tokenizer, Callable[[pyarrow.Table], pyarrow.Table]]:
        made = tokenizer or train_tokenizer(_texts(train), teacher.new.vocabulary)
        assert tokenizer or made.token_to_id(END) == end
        tokenise = functools.partial(
            tokenise_completions, tokenizer_json=made.to_str(), end=end, max_length=data.max_length
        )
        _refuse_long_prompts({"train": train, "validation": validation}, made, data)
        return made, tokenise

    key = {"tokenizer": source, "task": "generate", "max_length": data.max_length, "packing": data.packing}
    return Plan(key, make, [], {"end": end, "packing": data.packing})


def _texts(table: pyarrow.Table) -> Iterator[str]:
    for name in ("text", "pair", "label"):
        yield from (text for text in table[name].to_pylist() if text is not None)


def _refuse_long_prompts(tables: dict[str, pyarrow.Table], tokenizer: Tokenizer, data: DataSpec) -> None:
    """A prompt that leaves no room for a completion is no example of one."""
    for split, table in tables.items():
        prompts = list(map(prompt, table["text"].to_pylist(), table["pair"].to_pylist()))
        for number, found in enumerate(tokenizer.encode_batch(prompts, add_special_tokens=False), 1):
            if len(found) >= data.max_length:
                raise UsageError(
                    f"data.max_length: {data.max_length}: the prompt of row {number} of data.{split} alone has "
                    f"{len(found)} tokens; raise it, or remove the row"
                )


def known_to(teacher: Path, labels: list[str]) -> tuple[list[str], Tokenizer]:
    """Classes in the order of a given teacher, and its tokenizer; `labels` are those of the rows.

    Raises `UsageError` for one that it never learned.
    """
    reference = read_reference(teacher, "python -m jobs.finetune")
    if unknown := sorted(set(labels) - set(reference.labels)):
        raise UsageError(
            f"teacher.bundle: {teacher}: never learned the label {shown(unknown[0], labels)} of data.train "
            f"({len(unknown)} such labels); fine-tune a teacher on these rows, or remove them"
        )
    return list(reference.labels), read_tokenizer(teacher / reference.tokenizer)


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
