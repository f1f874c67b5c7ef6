"""Rows of texts and labels as tokens: the classes, and the tokenizer that cuts the texts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.data.plan import Made, Plan
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.source import shown
from jobs.models.reference import read_reference, read_tokenizer

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer


def plan(recipe: Recipe, train: pyarrow.Table, validation: pyarrow.Table) -> Plan:
    """A plan with the teacher's tokenizer; the classes are those of the rows. Raises `UsageError`."""
    from jobs.data.tokenise import classes
    from jobs.models.encoder import check_pooling, grades_of
    from jobs.models.loading import load_tokenizer

    labels = classes(train, {"validation": validation}, recipe.data)
    if recipe.teacher.head == "grades":
        grades_of(labels)  # refused now, not by the first worker
    if recipe.teacher.bundle:
        labels, tokenizer = known_to(Path(recipe.teacher.bundle), train["label"].to_pylist())
    else:
        tokenizer = load_tokenizer(recipe.teacher.model)
        check_pooling(recipe.teacher.model, recipe.teacher.pooling)
    return _plan(recipe, tokenizer, labels)


def _plan(recipe: Recipe, tokenizer: Tokenizer, labels: list[str]) -> Plan:
    from jobs.data.tokenise import tokenise_classes

    tokenizer.enable_truncation(recipe.data.max_length)
    tokenise = functools.partial(tokenise_classes, tokenizer_json=tokenizer.to_str(), labels=labels)
    return Plan({"tokenizer": tokenizer.to_str(), "labels": labels}, lambda: Made(tokenizer, tokenise, {}), labels, {})


def known_to(teacher: Path, labels: list[str]) -> tuple[list[str], Tokenizer]:
    """Classes in the order of a given teacher, and its tokenizer; `labels` are the labels of the rows.

    Raises `UsageError` for a label that it never learned.
    """
    reference = read_reference(teacher, "python -m jobs.finetune")
    if unknown := sorted(set(labels) - set(reference.labels)):
        raise UsageError(
            f"teacher.bundle: {teacher}: never learned the label {shown(unknown[0], labels)} of data.train "
            f"({len(unknown)} such labels); fine-tune a teacher on these rows, or remove them"
        )
    return list(reference.labels), read_tokenizer(teacher / reference.tokenizer)


def plan_of_student(recipe: Recipe, prepared: Prepared) -> Plan | None:
    """The same rows in the student's own tokens; None where its tokenizer is the teacher's.

    Raises `UsageError` where the student has to learn more than logits from the teacher.
    """
    from jobs.models.encoder import check_pooling
    from jobs.models.loading import load_tokenizer

    model = recipe.student.model
    assert model is not None
    tokenizer = load_tokenizer(model, "student.model")
    check_pooling(model, recipe.student.pooling, "student.model")
    if tokenizer.to_str() == read_tokenizer(prepared.folder / TOKENIZER).to_str():
        return None
    other = f"student.model: {model}: has another tokenizer than the teacher"
    if bound := next(iter(recipe.distillation.hidden_objectives), None):
        raise UsageError(f"{other}, and distillation.weights.{bound} compares them token by token; set it to 0")
    if recipe.has_pool:
        raise UsageError(f"{other}, in whose tokens the pool is; leave out data.unlabelled and distillation.pool")
    return _plan(recipe, tokenizer, prepared.labels)
