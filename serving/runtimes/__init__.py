"""The runtimes that a bundle can ask for: one file each, imported when a bundle is opened.

A new runtime is a file with `open_model(folder, bundle, threads)` and a record in `configs.schema.runtimes.RUNTIMES`;
the function returns a `ClassifierModel`, a `TextModel` or a `WriterModel`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from configs.schema.runtimes import RUNTIMES, how_to_install, package
from configs.schema.tasks import TASKS, named
from serving.bundle import Bundle, BundleError, read_bundle
from serving.inputs import Row

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer


OURS = ("configs", "serving")  # a module of these that is missing is a fault of ours


@runtime_checkable
class ClassifierModel(Protocol):
    """Scores rows of token ids."""

    def logits(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """float [B, C] of int64 inputs [B, L] by name."""
        ...


@runtime_checkable
class TextModel(Protocol):
    """Scores texts, without tokens."""

    def of_texts(self, rows: Sequence[Row]) -> np.ndarray:
        """float32 [N, C] of texts, or of pairs of texts."""
        ...


class GeneratorModel(Protocol):
    """Continues token ids."""

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        """Greedy completions of prompts of one length, without the token that ends a text.

        A prompt and its completion have `max_length` tokens at most together.
        """
        ...


class Sampling(NamedTuple):
    """How the next token is chosen: the likeliest at temperature 0, else drawn."""

    temperature: float = 0.0  # the logits are divided by it
    top_k: int = 0  # from so many of the likeliest; 0: from all
    top_p: float = 1.0  # from the likeliest that have this probability together


Step = Callable[
    [int, int | None], bool
]  # (row, token, or None where the model ends the text) -> whether to end the row


class Candidate(NamedTuple):
    """One of several texts for a prompt."""

    tokens: list[int]  # without the one that ends a text
    score: float  # mean log-probability of a token


@runtime_checkable
class WriterModel(GeneratorModel, Protocol):
    """Continues token ids, and tells each token as it comes: what is served."""

    def write(self, prompts: Sequence[Sequence[int]], most: int, sampling: Sampling, step: Step) -> None:
        """Continue prompts of any lengths by `most` tokens each at most.

        `step` is called in any one thread. An error of it ends the call, which raises it.
        """
        ...

    def candidates(self, prompt: Sequence[int], most: int, sampling: Sampling, count: int) -> list[Candidate]:
        """`count` texts of `most` tokens at most: the likeliest that a beam finds, or drawn ones."""
        ...


class Opened(NamedTuple):
    """A verified bundle, ready to answer."""

    bundle: Bundle
    tokenizer: Tokenizer
    model: Any  # of the task: ClassifierModel, TextModel or WriterModel


def open_bundle(folder: Path, opens: str, threads: int) -> Opened:
    """Verify the bundle and load it on the CPU; `threads` run one matrix product.

    `opens` is the opening function that the record of the bundle's task must name. Raises `BundleError`.
    """
    bundle = read_servable(folder)
    if TASKS[bundle.task].open != opens:
        able = " or ".join(repr(name) for name, each in TASKS.items() if each.open == opens)
        raise BundleError(f"{folder}: a bundle for task {bundle.task!r}; one for {able} is needed")
    return open_verified(folder, bundle, threads)


def open_verified(folder: Path, bundle: Bundle, threads: int) -> Opened:
    """Load the own model of `bundle`, which was read from `folder`. Raises `BundleError`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a second thread pool would fight over the cores
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / bundle.tokenizer))
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise BundleError(f"{folder / bundle.tokenizer}: {one_line(error)}") from None
    return Opened(bundle, tokenizer, _open_model(folder, bundle, threads))


def read_servable(folder: Path) -> Bundle:
    """The verified bundle, if a runtime here can run it. Raises `BundleError`."""
    bundle = read_bundle(folder)
    if RUNTIMES[bundle.runtime].open is None:
        raise BundleError(
            f"{folder}: a {bundle.runtime} bundle is a reference and is not served; "
            "export it with python -m jobs.compress"
        )
    return bundle


def check_graph(path: Path, bundle: Bundle, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise `BundleError` where the graph in `path` has other inputs than the manifest says, or gives no logits."""
    if sorted(inputs) != sorted(bundle.inputs):
        raise BundleError(f"{path}: inputs {sorted(inputs)}, the manifest says {sorted(bundle.inputs)}")
    if "logits" not in outputs:
        raise BundleError(f"{path}: has no output named 'logits'")


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _open_model(folder: Path, bundle: Bundle, threads: int) -> Any:
    opens = RUNTIMES[bundle.runtime].open
    assert opens is not None
    try:
        return named(opens)(folder, bundle, threads)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        reason = one_line(error)
        if error.name == package(bundle.runtime):
            reason = f"runtime {bundle.runtime!r} is not installed here; {how_to_install(bundle.runtime)}"
        raise BundleError(f"{folder}: {reason}") from None
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - the errors of these libraries share no public base class
        raise BundleError(f"{folder / bundle.model}: {one_line(error)}") from None
