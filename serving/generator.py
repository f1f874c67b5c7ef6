"""Answer from a decoder's bundle: prompts in, texts out. No Ray, no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from serving.bundle import Bundle, BundleError
from serving.inputs import TOKENS_PER_BATCH, Input, InputError, Row, checked, cut, prompt
from serving.pieces import Text
from serving.rounds import Writing
from serving.runtimes import GeneratorModel, LengthModel, Sampling, WriterModel, one_line, open_bundle

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

OPENS = "serving.generator:load_generator"  # its name in the records of tasks


class Completion(TypedDict):
    """The text that follows a prompt."""

    text: str


class Generator:
    """A loaded bundle: inputs -> texts."""

    def __init__(
        self, bundle: Bundle, model: GeneratorModel, tokenizer: Tokenizer, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        self.bundle = bundle
        self.model = model
        self.tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
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
        return checked(inputs, self.bundle.pairs, self.bundle.attributes)

    def predict(self, inputs: Sequence[Input]) -> list[Completion]:
        """The likeliest text for each input, in order; a longer prompt is cut. Raises `InputError`."""
        encoded = [each.ids for each in self._encoded(inputs)]
        completed = completions(self.model, encoded, self.bundle.max_length, self._tokens_per_batch)
        return [{"text": text} for text in self.tokenizer.decode_batch(completed)]

    def prompts(self, inputs: Sequence[Input]) -> list[list[int]]:
        """Token ids of each input, in order. Raises `InputError` also for one that is longer than the model reads."""
        encoded = self._encoded(inputs)
        for index, each in enumerate(encoded):
            if not len(each):
                raise InputError(f"input {index} has nothing that the model can read")
            if each.overflowing:
                length = len(each) + sum(map(len, each.overflowing))
                raise InputError(f"input {index} has {length} tokens; this model reads at most {self.longest}")
        return [each.ids for each in encoded]

    def write(self, given: Input, tell: Callable[[str], None]) -> None:
        """Tell the likeliest text of one input piece by piece, in another thread. Raises `InputError`.

        A longer prompt is cut. The pieces are together what `predict` gives.
        """
        (encoding,) = self._encoded([given])
        most = self.bundle.max_length - len(encoding)
        writing = Writing(encoding.ids, most, Sampling(), Text(self.tokenizer), lambda piece, _: tell(piece))
        if len(encoding):
            self.writer.write([encoding.ids], most, writing.sampling, lambda _, token: writing.take(token))

    def of_length(self, inputs: Sequence[Input], read: int, written: int) -> list[Completion]:
        """Texts of `written` tokens, whatever would end them, after the first `read` tokens of each prompt: to time it.

        Where the model holds fewer tokens together, the prompt is cut first. Raises `InputError`.
        """
        longest, model = self.bundle.max_length, _OfLength(self.model, written)
        prompts = [each.ids[: max(1, min(read, longest - written))] for each in self._encoded(inputs)]
        completed = completions(model, prompts, longest, self._tokens_per_batch)
        return [{"text": text} for text in self.tokenizer.decode_batch(completed)]

    def _encoded(self, inputs: Sequence[Input]) -> list[Encoding]:
        prompts = [prompt(row, None) if isinstance(row, str) else prompt(*row) for row in self.rows(inputs)]
        return self.tokenizer.encode_batch(prompts, add_special_tokens=False)


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
    generator = Generator(opened.bundle, opened.model, opened.tokenizer, tokens_per_batch)
    try:  # a model that cannot answer is refused when it is loaded, not at its first customer
        generator.predict([("a", "b") if opened.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{Path(folder) / opened.bundle.model}: cannot answer: {one_line(error)}") from None
    return generator
