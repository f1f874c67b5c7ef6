"""CTranslate2: decoders as model.bin (its own binary form), config.json and vocabulary.json."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.schema.runtimes import RUNTIMES, VOCABULARY
from serving.bundle import Bundle, BundleError
from serving.runtimes import Candidate, Sampling, Step, int4

if TYPE_CHECKING:
    from ctranslate2 import GenerationStepResult, Generator

MODEL, CONFIG = RUNTIMES["ctranslate2"].model, "config.json"
COMPUTE = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Ctranslate2Model:
    """Tokens that follow token ids; the library itself wants the names of tokens."""

    def __init__(self, generator: Generator, tokens: list[str], end: str) -> None:
        """`end`: name of the token that ends a text."""
        self._held = [generator]
        self._tokens = tokens
        self._end = tokens.index(end)
        # A process that ends before its generator is aborted, where a callback was used.
        self.close = weakref.finalize(self, self._held.clear)

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        """Completions without the prompt and without the token that ends a text."""
        results = self._held[0].generate_batch(
            self._named(prompts),
            beam_size=1,
            max_length=max_length - len(prompts[0]),
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    def write(self, prompts: Sequence[Sequence[int]], most: int, sampling: Sampling, step: Step) -> None:
        """See `WriterModel`."""
        # A thread of the library may hold `told` when this call is over. If the model went with it, the library would
        # wait there for that very thread, and abort.
        end, steps = self._end, [step]

        def told(result: GenerationStepResult) -> bool:
            return steps[0](result.batch_id, None if result.token_id == end else result.token_id)

        try:
            self._held[0].generate_batch(
                self._named(prompts),
                beam_size=1,
                max_length=most,
                include_prompt_in_result=False,
                callback=told,
                **self._drawn(sampling),
            )
        finally:
            steps.clear()

    def candidates(self, prompt: Sequence[int], most: int, sampling: Sampling, count: int) -> list[Candidate]:
        """See `WriterModel`."""
        (result,) = self._held[0].generate_batch(
            self._named([prompt]),
            beam_size=1 if sampling.temperature > 0 else count,
            num_hypotheses=count,
            return_scores=True,
            max_length=most,
            include_prompt_in_result=False,
            **self._drawn(sampling),
        )
        found = zip(result.sequences_ids, result.scores, strict=True)
        return [Candidate([each for each in ids if each != self._end], score) for ids, score in found]

    def _drawn(self, sampling: Sampling) -> dict[str, Any]:
        if not sampling.temperature > 0:
            return {}
        return {
            "sampling_topk": min(sampling.top_k, len(self._tokens)),
            "sampling_topp": sampling.top_p,
            "sampling_temperature": sampling.temperature,
        }

    def _named(self, prompts: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self._tokens[token] for token in ids] for ids in prompts]


def open_model(folder: Path, bundle: Bundle, threads: int) -> Ctranslate2Model:
    """Raises `BundleError` where the folder is not as CTranslate2 wants it, else what it raises."""
    if bundle.model != MODEL:
        raise BundleError(f"{folder / bundle.model}: CTranslate2 reads the model from {MODEL}")
    return open_file(folder, bundle.precision, threads)


def open_file(folder: Path, precision: str, threads: int) -> Ctranslate2Model:
    """A decoder on the CPU."""
    tokens, config = (json.loads((folder / name).read_bytes()) for name in (VOCABULARY, CONFIG))
    if (end := config.get("eos_token")) not in tokens:
        raise BundleError(f"{folder / CONFIG}: its eos_token is no token of {VOCABULARY}")
    return Ctranslate2Model(open_generator(folder, precision, threads), tokens, end)


def open_generator(folder: Path, precision: str, threads: int) -> Generator:
    """The library's own generator. It computes in `precision`, also with weights that are stored in fewer bits.

    Int8 activations would be twice as fast, but would change one text in eight. Raises `BundleError` where the folder
    holds no model of the library.
    """
    import ctranslate2

    stored = int4.read(folder / MODEL)
    files = None  # reads the files in the folder
    if (whole := int4.expanded(stored)) is not stored:
        files = {MODEL: whole.content()} | {name: (folder / name).read_bytes() for name in (CONFIG, VOCABULARY)}
    return ctranslate2.Generator(
        str(folder),
        device="cpu",
        compute_type=COMPUTE[precision],
        inter_threads=1,
        intra_threads=threads,
        files=files,
    )


def computes(precision: str) -> bool:
    """Whether this CPU has the instructions of a precision."""
    import ctranslate2

    return COMPUTE[precision] in ctranslate2.get_supported_compute_types("cpu")
