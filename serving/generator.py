"""Answer from a decoder's bundle: prompts in, texts out. No Ray, no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from serving.bundle import Bundle, BundleError
from serving.checks import Checks, read_checks, reason_of
from serving.conversation import Conversation, read_conversation
from serving.inputs import TOKENS_PER_BATCH, Input, InputError, Row, Slots, checked, cut, unknown_id
from serving.inputs import prompt as in_words
from serving.manner import in_manner
from serving.pieces import Text
from serving.redaction import redactor
from serving.rounds import Writing
from serving.runtimes import CandidateModel, GeneratorModel, LengthModel, Sampling, WriterModel, one_line, open_bundle

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

OPENS = "serving.generator:load_generator"  # its name in the records of tasks


class Completion(TypedDict):
    """The text that follows a prompt."""

    text: str
    faults: NotRequired[list[str]]  # of a bundle with checks: keys of `serving.checks.FAULTS`


class Again(NamedTuple):
    """Further texts for a prompt, the likeliest first, and the number of tokens that all of them took."""

    texts: list[str]
    tokens: int


class Generator:
    """A loaded bundle: inputs -> texts."""

    def __init__(
        self,
        bundle: Bundle,
        model: GeneratorModel,
        tokenizer: Tokenizer,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        checks: Checks | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        """`conversation`: words all inputs, those of bundles with a chat template."""
        self.conversation = conversation
        self.bundle = bundle
        self.model = model
        self.tokenizer = tokenizer
        self.checks = checks
        self._tokens_per_batch = tokens_per_batch
        self._redact = redactor(bundle.redact)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.longest)

    @property
    def longest(self) -> int:
        """Most tokens of a prompt: those that leave room for a token that is written."""
        return self.bundle.max_length - 1

    @property
    def writer(self) -> WriterModel:
        """The model, where it tells each token as it comes: one that is served does."""
        assert isinstance(self.model, WriterModel)
        return self.model

    def rows(self, inputs: Sequence[Input]) -> list[Row]:
        """`inputs` in the tokenizer's form. A wrong input raises `InputError` naming the index."""
        return checked(inputs, self.bundle.pairs, self.bundle.attributes, self._redact)

    def predict(self, inputs: Sequence[Input]) -> list[Completion]:
        """The likeliest text for each input, in order; a longer prompt is cut. Raises `InputError`.

        With checks the likeliest of those that have the fewest faults, and these faults.
        """
        prompts = self.worded(inputs)
        encoded = [each.ids for each in self._encoded(prompts)]
        completed = completions(self.model, encoded, self.bundle.max_length, self._tokens_per_batch)
        texts = self.tokenizer.decode_batch(completed)
        if self.checks is None:
            return [{"text": text} for text in texts]
        return [self._checked(*each) for each in zip(texts, prompts, encoded, strict=True)]

    def checked(self, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """What `predict` gives of a bundle with checks, as a service answers it: `text`, `held` and its `reason`."""
        said: list[dict[str, Any]] = []
        for each in self.predict(inputs):
            reason = reason_of(each.get("faults", []))
            said.append(
                {"text": "", "held": True, "reason": reason} if reason else {"text": each["text"], "held": False}
            )
        return said

    def likeliest(self, given: Input) -> str:
        """The likeliest text of one input, unchecked."""
        (encoding,) = self._encoded(self.worded([given]))
        (ids,) = completions(self.model, [encoding.ids], self.bundle.max_length)
        return self.tokenizer.decode(ids)

    def _checked(self, text: str, prompt: str, ids: Sequence[int]) -> Completion:
        assert self.checks is not None
        best, faults = text, self.checks.faults(text, prompt)
        if faults:
            most = self.bundle.max_length - len(ids)
            best, faults = best_of((best, faults), self.written_again(ids, most, Sampling()).texts, prompt, self.checks)
        return {"text": best, "faults": faults}

    def written_again(self, ids: Sequence[int], most: int, sampling: Sampling, stop: Sequence[str] = ()) -> Again:
        """Further texts for a prompt; none where the recipe asks for one candidate."""
        count = self.checks.asked.candidates if self.checks else 1
        if count == 1 or not len(ids):
            return Again([], 0)
        assert isinstance(self.model, CandidateModel)
        found = sorted(self.model.candidates(ids, most, sampling, count), key=lambda each: -each.score)
        texts = [_text_of(self.tokenizer, each.tokens, stop) for each in found]
        return Again(texts, sum(len(each.tokens) for each in found))

    def read(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of the prompts that inputs were `worded` as. Raises `InputError` for one that is too long."""
        return [self._whole(f"input {index}", each) for index, each in enumerate(self._encoded(prompts))]

    def prompt_of(self, conversation: str) -> list[int]:
        """Token ids of a conversation as its template writes it. Raises `InputError` where it is too long."""
        return self._whole("the conversation", self.tokenizer.encode(conversation, add_special_tokens=False))

    def unknown_share(self, ids: Sequence[int]) -> float:
        """Share of the tokens that stand for something that the tokenizer does not know."""
        return 0.0 if self._unknown is None or not ids else ids.count(self._unknown) / len(ids)

    @cached_property
    def _unknown(self) -> int | None:
        return unknown_id(self.tokenizer)

    def _whole(self, what: str, encoding: Encoding) -> list[int]:
        if not len(encoding):
            raise InputError(f"{what} has nothing that the model can read")
        if encoding.overflowing:
            length = len(encoding) + sum(map(len, encoding.overflowing))
            raise InputError(f"{what} has {length} tokens; this model reads at most {self.longest}")
        return encoding.ids

    def worded(self, inputs: Sequence[Input], manner: Slots = ()) -> list[str]:
        """The prompts in words, in order, for texts in a `manner`. Raises `InputError`."""
        if self.conversation:
            return [self.conversation.of_input(each, index) for index, each in enumerate(inputs)]
        return [in_manner(_prompt(row), manner) for row in self.rows(inputs)]

    def write(self, given: Input, tell: Callable[[str], None]) -> None:
        """Tell the likeliest text of one input piece by piece, in another thread. Raises `InputError`.

        A longer prompt is cut. The pieces are together what `predict` gives; a text that is held back has none.
        """
        if self.checks:  # no piece goes out before the whole text is checked
            (completion,) = self.predict([given])
            tell("" if completion.get("faults") else completion["text"])
            return
        (encoding,) = self._encoded(self.worded([given]))
        most = self.bundle.max_length - len(encoding)
        writing = Writing(encoding.ids, most, Sampling(), Text(self.tokenizer), lambda piece, _: tell(piece))
        if len(encoding):
            self.writer.write([encoding.ids], most, writing.sampling, lambda _, token: writing.take(token))

    def of_length(self, inputs: Sequence[Input], read: int, written: int) -> list[Completion]:
        """Texts of `written` tokens, whatever would end them, after the first `read` tokens of each prompt: to time it.

        Where the model holds fewer tokens together, the prompt is cut first. Raises `InputError`.
        """
        longest, model = self.bundle.max_length, _OfLength(self.model, written)
        prompts = [each.ids[: max(1, min(read, longest - written))] for each in self._encoded(self.worded(inputs))]
        completed = completions(model, prompts, longest, self._tokens_per_batch)
        return [{"text": text} for text in self.tokenizer.decode_batch(completed)]

    def _encoded(self, prompts: Sequence[str]) -> list[Encoding]:
        return self.tokenizer.encode_batch(list(prompts), add_special_tokens=False)


def best_of(first: tuple[str, list[str]], others: Sequence[str], prompt: str, checks: Checks) -> tuple[str, list[str]]:
    """(text, faults) of the text with the fewest faults, the earliest of these."""
    found = [first, *((text, checks.faults(text, prompt)) for text in others)]
    return min(found, key=lambda each: len(each[1]))


def _text_of(tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str]) -> str:
    text = Text(tokenizer, stop)
    pieces = []
    for token in tokens:
        pieces.append(text.add(token))
        if text.stopped:
            break
    return "".join([*pieces, text.end()])


def _prompt(row: Row) -> str:
    return in_words(row, None) if isinstance(row, str) else in_words(*row)


class _OfLength:
    """Stands where a model stands: writes `written` tokens, whatever would end a text."""

    def __init__(self, model: GeneratorModel, written: int) -> None:
        assert isinstance(model, LengthModel)
        self._model, self._written = model, written

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        """So many tokens after each prompt, or as many as fit into `max_length`."""
        return self._model.of_length(prompts, min(self._written, max_length - len(prompts[0])))


def completions(
    model: GeneratorModel,
    prompts: Sequence[Sequence[int]],
    max_length: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[list[int]]:
    """Token ids that follow each prompt, in order; prompt and completion have `max_length` tokens at most together.

    Prompts of one length are completed together, so that none is padded and all may write the same number of tokens.
    Nothing follows a prompt without tokens.
    """
    completed: list[list[int]] = [[]] * len(prompts)
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(prompts):
        if len(ids):
            by_length[len(ids)].append(index)
    for length, alike in by_length.items():
        for places in cut([length] * len(alike), tokens_per_batch):
            chosen = [alike[place] for place in places]
            written = model.complete([prompts[index] for index in chosen], max_length)
            for index, ids in zip(chosen, written, strict=True):
                completed[index] = ids
    return completed


def load_generator(folder: Path | str, threads: int = 1, tokens_per_batch: int = TOKENS_PER_BATCH) -> Generator:
    """Verify a decoder's bundle and load it on the CPU; `threads` run one matrix product. Raises `BundleError`."""
    opened = open_bundle(Path(folder), OPENS, threads)
    checks = read_checks(Path(folder)) if opened.bundle.checked else None
    conversation = read_conversation(Path(folder), opened.bundle, opened.tokenizer)
    generator = Generator(opened.bundle, opened.model, opened.tokenizer, tokens_per_batch, checks, conversation)
    try:  # a model that cannot answer is refused when it is loaded, not at its first customer
        generator.predict([("a", "b") if opened.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{Path(folder) / opened.bundle.model}: cannot answer: {one_line(error)}") from None
    return generator
