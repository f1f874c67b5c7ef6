"""Reference bundles in eager torch: the one place where safetensors bundles run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from jobs.models import decoder, encoder
from jobs.models.reference import read_reference, read_tokenizer
from serving.classifier import Classifier
from serving.conversation import read_conversation
from serving.generator import Generator


class TorchClassifier:
    """Stands where a runtime's model stands: eval mode, inference mode, SDPA, float32."""

    def __init__(self, folder: Path) -> None:
        self._model = encoder.load(folder)

    def logits(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [B, C] of int64 inputs [B, L]."""
        with torch.inference_mode():
            return self._model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()


class TorchGenerator:
    """The same of a decoder."""

    def __init__(self, folder: Path) -> None:
        self._model, self._end = decoder.load(folder), decoder.end_of(str(folder))

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        """Greedy completions without the token that ends a text."""
        return decoder.complete(self._model, [list(ids) for ids in prompts], max_length, self._end)


def load_reference(folder: Path, threads: int = 1) -> Classifier:
    """The teacher or student in `folder`, answering exactly as a served bundle does."""
    torch.set_num_threads(threads)
    bundle = read_reference(folder, "python -m jobs.finetune")
    return Classifier(bundle, TorchClassifier(folder), read_tokenizer(folder / bundle.tokenizer))


def load_decoder(folder: Path, threads: int = 1) -> Generator:
    """The same of a decoder."""
    torch.set_num_threads(threads)
    bundle = read_reference(folder, "python -m jobs.finetune")
    tokenizer = read_tokenizer(folder / bundle.tokenizer)
    conversation = read_conversation(folder, bundle, tokenizer)
    return Generator(bundle, TorchGenerator(folder), tokenizer, conversation=conversation)
