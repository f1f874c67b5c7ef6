"""Conversations as prompts, by the chat template of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.bundle import Bundle, BundleError
from serving.inputs import MESSAGES, Input, InputError, messages
from serving.redaction import redactor
from serving.runtimes import one_line
from serving.service import Refused

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Said = Mapping[str, str]  # role and content
TRIED = [{"role": "user", "content": "where is my order"}]


class Conversation:
    """Makes conversations prompts."""

    def __init__(self, template: str, special: Sequence[str], redact: Callable[[str], str] = str) -> None:
        """`template`: Jinja as transformers has it, its special tokens written out; `special`: the tokenizer's.

        `redact` makes each content what a model may read.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Missing(jinja2.Undefined):
            """A variable that nobody gives may be asked for, and not be written."""

            __str__ = jinja2.Undefined._fail_with_undefined_error

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=Missing)
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(template)
        self._special = special
        self._redact = redact

    def prompt(self, said: Sequence[Said]) -> str:
        """What the model reads before it answers. Raises `Refused`."""
        for index, each in enumerate(said):
            if any(token in each["content"] for token in self._special):
                raise Refused(422, f"message {index} holds the text of a special token of this model", "messages")
        try:
            said = [{**each, "content": self._redact(each["content"])} for each in said]
        except ValueError as error:
            raise Refused(422, str(error), "messages") from None
        try:
            return self._template.render(messages=said, add_generation_prompt=True)
        except _NotTaken:
            raise Refused(422, "messages: this model does not take their roles in this order", "messages") from None

    def whole(self, said: Sequence[Said]) -> str:
        """A conversation with its last answer."""
        return self._template.render(messages=said, add_generation_prompt=False)

    def of_input(self, value: Input, index: int) -> str:
        """The same for an input: a conversation, or a text, which its user says. Raises `InputError`."""
        given = value[MESSAGES] if isinstance(value, Mapping) and value.keys() == {MESSAGES} else value
        if isinstance(value, str):
            given = [{"role": "user", "content": value}]
        try:
            said = messages(given) if isinstance(given, list) else ()
        except ValueError as error:
            raise InputError(f"input {index}: {error}") from None
        if not said:
            raise InputError(f"input {index} is neither a text nor an object with {MESSAGES}")
        try:
            return self.prompt([{"role": role, "content": content} for role, content in said])
        except Refused as error:
            raise InputError(f"input {index}: {error.detail}") from None


class _NotTaken(Exception):
    """Raised by a template; its message may quote the customer."""


def _refuse(_: Any) -> None:
    raise _NotTaken


def read_conversation(folder: Path, bundle: Bundle, tokenizer: Tokenizer) -> Conversation | None:
    """That of the bundle, tried once; None where it has no template. Raises `BundleError`."""
    if bundle.chat_template is None:
        return None
    special = [each.content for each in tokenizer.get_added_tokens_decoder().values() if each.special]
    try:
        template = (folder / bundle.chat_template).read_text(encoding="utf-8")
        made = Conversation(template, special, redactor(bundle.redact))
        made.prompt(TRIED)
    except Exception as error:  # noqa: BLE001 - Jinja and Python raise what they like
        raise BundleError(f"{folder / bundle.chat_template}: {one_line(error) or type(error).__name__}") from None
    return made
