"""Rows of prompts and completions as tokens: the tokenizer that cuts them, and the token that ends a text."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.loader import UsageError
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.data.manner import taught
from jobs.data.plan import Made, Plan
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.data.source import place
from jobs.measure.answers import UNSCORED
from jobs.models.reference import read_reference, read_tokenizer
from jobs.tasks.generate.chat import chat_template
from jobs.tasks.generate.inspection import inspect

if TYPE_CHECKING:
    import pyarrow

LEAST_TIMES = 5  # that the bytes of a learned token stand together: what a customer alone said is none
OF_ATTRIBUTES = "slot_accuracy"  # the metric that rows without attributes have none of


def plan(recipe: Recipe, train: pyarrow.Table, validation: pyarrow.Table) -> Plan:
    """A plan with the teacher's tokenizer, or with one learned from the training rows. Raises `UsageError`."""
    from jobs.data.tokenise import END, tokenise_completions, train_tokenizer
    from jobs.models.decoder import end_of
    from jobs.models.loading import load_tokenizer

    data, teacher = recipe.data, recipe.teacher
    if not any(validation["attributes"].to_pylist()):
        _check_budget(recipe)
    if teacher.bundle:
        reference = read_reference(Path(teacher.bundle), "python -m jobs.finetune")
        tokenizer, end = read_tokenizer(Path(teacher.bundle) / reference.tokenizer), end_of(teacher.bundle)
        source = tokenizer.to_str()
    elif teacher.model.startswith(NEW):
        tokenizer, end = None, 0
        source = f"{teacher.new.vocabulary} tokens learned from what the training rows say {LEAST_TIMES} times"
    else:
        tokenizer, end = load_tokenizer(teacher.model), end_of(teacher.model)
        source = tokenizer.to_str()

    template = chat_template(recipe, train, validation, tokenizer)

    def make() -> Made:
        trained = tokenizer or train_tokenizer(_texts(train), teacher.new.vocabulary, LEAST_TIMES)
        assert tokenizer or trained.token_to_id(END) == end
        tokenise = functools.partial(
            tokenise_completions,
            tokenizer_json=trained.to_str(),
            end=end,
            max_length=data.max_length,
            template=template,
        )
        facts = inspect({"train": train, "validation": validation}, trained, data, teacher.origin, template)
        return Made(trained, tokenise, facts, template)

    key = {"tokenizer": source, "task": "generate", "max_length": data.max_length, "packing": data.packing}
    if template is not None:
        key["template"] = template
    facts: dict[str, Any] = {"end": end, "packing": data.packing}
    if manner := taught(map(json.loads, train["manner"].unique().to_pylist()), data, place(data, "train")):
        facts["manner"] = manner
    return Plan(key, make, [], facts)


def _check_budget(recipe: Recipe) -> None:
    """Refuse a budget of what only rows with attributes have."""
    budget, at = recipe.budget, place(recipe.data, "validation")
    if budget.metric == OF_ATTRIBUTES:
        raise UsageError(f"budget.metric: {OF_ATTRIBUTES!r}: {at}: {UNSCORED}")
    if (limit := budget.max_slot_errors) is not None:
        raise UsageError(
            f"budget.max_slot_errors: {limit:g}: {at}: no row has attributes, whose errors it limits; leave it out"
        )


def _texts(table: pyarrow.Table) -> Iterator[str]:
    for name in ("text", "pair", "label"):
        yield from (text for text in table[name].to_pylist() if text is not None)


def plan_of_student(recipe: Recipe, prepared: Prepared) -> None:
    """None: a student reads the teacher's rows. Raises `UsageError` where it cuts or ends texts in another way."""
    from jobs.models.decoder import end_of
    from jobs.models.loading import load_tokenizer

    model = recipe.student.model
    assert model is not None
    tokenizer = load_tokenizer(model, "student.model")
    if tokenizer.to_str() != read_tokenizer(prepared.folder / TOKENIZER).to_str():
        raise UsageError(
            f"student.model: {model}: has another tokenizer than the teacher, whose stored tokens it cannot learn to "
            "say; give one with the teacher's tokenizer"
        )
    if (end := end_of(model, "student.model")) != prepared.manifest["end"]:
        raise UsageError(f"student.model: {model}: ends a text with token {end}, not as the teacher does")
