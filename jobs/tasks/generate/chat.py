"""The chat template that words the rows, where they are conversations or the recipe asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from configs.loader import UsageError
from configs.schema.models import NEW
from configs.schema.recipe import Recipe
from jobs.data.source import place

if TYPE_CHECKING:
    import pyarrow
    from tokenizers import Tokenizer


OURS = (  # of models with new weights
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TRIED = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"})


def chat_template(recipe: Recipe, train: pyarrow.Table, tokenizer: Tokenizer | None) -> str | None:
    """The template of the teacher, its special tokens written out; None where rows are prompts as they are.

    `tokenizer`: the teacher's; None where it is learned from the rows. Raises `UsageError` where the teacher has no
    template, or words an answer otherwise than this program trains it: prompt, answer, the token that ends a text.
    """
    data, at = recipe.data, place(recipe.data, "train")
    conversations = len(train) - train["conversation"].null_count
    if 0 < conversations < len(train):
        raise UsageError(
            f"{at}: column {data.text!r} holds {conversations} conversations among {len(train)} rows; give all rows "
            "one form"
        )
    if data.chat is False or (data.chat is None and not conversations):
        if conversations:
            raise UsageError(f"data.chat: False: column {data.text!r} of {at} holds conversations; leave it out")
        return None
    if data.text_pair is not None or train["attributes"].unique().to_pylist() == [True]:
        raise UsageError("data.chat: True: attributes and pairs of texts are no conversation; use texts or messages")
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
