"""The chat template that words the rows, where they are conversations or the recipe asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.data.source import Split, place

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer


OURS = (  # of models with new weights
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TRIED = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"})


def chat_template(
    recipe: Recipe, train: pyarrow.Table, validation: pyarrow.Table, tokenizer: Tokenizer | None
) -> str | None:
    """The template of the teacher, its special tokens written out; None where rows are prompts as they are.

    `tokenizer`: the teacher's; None where it is learned from the rows. Raises `UsageError` where the teacher has no
    template, or words an answer otherwise than this program trains it: prompt, answer, the token that ends a text.
    """
    data = recipe.data
    tables: dict[Split, pyarrow.Table] = {"train": train, "validation": validation}
    if _conversations(data, tables):
        if data.chat is False:
            raise UsageError(
                f"data.chat: False: column {data.text!r} of {place(data, 'train')} holds conversations; leave it out"
            )
    elif not data.chat:
        return None
    if data.text_pair is not None or any(any(each["attributes"].unique().to_pylist()) for each in tables.values()):
        raise UsageError(
            f"data.chat: {data.chat}: attributes and pairs of texts are no conversation; use texts or messages"
        )
    if data.style is not None or data.lengths:
        field = "style" if data.style is not None else "lengths"
        raise UsageError(f"data.{field}: a conversation says itself how an answer is to be written; leave it out")
    if recipe.teacher.model.startswith(NEW) and not recipe.teacher.bundle:
        return OURS
    template = _given(recipe)
    if template is None:
        raise UsageError(
            f"{recipe.teacher.origin}: its tokenizer has no chat template to word conversations; give a model with one "
            "(chat_template.jinja), or rows with a prompt and an answer"
        )
    assert tokenizer is not None
    _check(recipe, template, tokenizer)
    return template


def _conversations(data: DataSpec, tables: Mapping[Split, pyarrow.Table]) -> bool:
    """Whether the rows are conversations. Raises `UsageError` where only some are."""
    if not any(_count(each) for each in tables.values()):
        return False
    for split, table in tables.items():
        if _count(table) < len(table):
            raise UsageError(
                f"{place(data, split)}: column {data.text!r} holds {_count(table)} conversations among {len(table)} "
                "rows; give all training and validation rows one form"
            )
    return True


def _count(table: pyarrow.Table) -> int:
    return len(table) - table["conversation"].null_count


def _given(recipe: Recipe) -> str | None:
    """The template of the given teacher."""
    from jobs.models.loading import chat_template_of
    from jobs.models.reference import read_reference

    if recipe.teacher.bundle is None:
        return chat_template_of(recipe.teacher.model)
    folder = Path(recipe.teacher.bundle)
    name = read_reference(folder, "python -m jobs.finetune").chat_template
    return name and (folder / name).read_text(encoding="utf-8")


def _check(recipe: Recipe, template: str, tokenizer: Tokenizer) -> None:
    """Refuse a template that cannot be used, or that ends an answer with another token than the model's texts."""
    from jobs.models.decoder import end_of
    from serving.conversation import Conversation

    end = tokenizer.id_to_token(end_of(recipe.teacher.bundle or recipe.teacher.model))
    question, answer = TRIED
    try:
        conversation = Conversation(template, ())
        before, whole = conversation.prompt([question]), conversation.whole([question, answer])
    except Exception as error:  # noqa: BLE001 - Jinja and Python raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{recipe.teacher.origin}: its chat template cannot word a conversation: {reason}") from None
    if not whole.startswith(before + answer["content"]):
        raise UsageError(
            f"{recipe.teacher.origin}: its chat template writes an answer otherwise than right behind the prompt; give "
            "another template (chat_template.jinja)"
        )
    rest = whole[len(before + answer["content"]) :].strip()
    if rest and not rest.startswith(end or rest):
        raise UsageError(
            f"{recipe.teacher.origin}: its chat template ends an answer with {json.dumps(rest[:40])}, and its config "
            f"texts with {end!r}; set eos_token_id of its config.json to the token of the template"
        )
