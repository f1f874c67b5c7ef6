"""Reference bundles in eager torch: the one place where safetensors bundles run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from jobs.measure.contenders import Answer, Predictor
from jobs.models import decoder, encoder
from jobs.models.reference import read_reference, read_tokenizer
from jobs.tasks.generate import prompt
from serving.bundle import Bundle
from serving.runtime import TOKENS_PER_BATCH, Classifier, Input


class TorchSession:
    """Stands where an ONNX Runtime session stands: eval mode, inference mode, SDPA, float32."""

    def __init__(self, folder: Path) -> None:
        self._model = encoder.load(folder)

    def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The logits [B, C] of int64 inputs [B, L]."""
        with torch.inference_mode():
            return [self._model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()]


def load_reference(folder: Path, threads: int = 1) -> Classifier:
    """The teacher or student in `folder`, answering exactly as a served bundle does."""
    torch.set_num_threads(threads)
    bundle: Bundle = read_reference(folder, "python -m jobs.finetune")
    session: Any = TorchSession(folder)
    return Classifier(bundle, session, Tokenizer.from_file(str(folder / bundle.tokenizer)), TOKENS_PER_BATCH)


def load_generator(folder: Path, threads: int = 1) -> Predictor:
    """The decoder in `folder`: prompts in, greedy completions out, in order."""
    torch.set_num_threads(threads)
    bundle = read_reference(folder, "python -m jobs.finetune")
    model = decoder.load(folder)
    tokenizer, end = read_tokenizer(folder / bundle.tokenizer), decoder.end_of(str(folder))

    def generate(inputs: Sequence[Input]) -> list[Answer]:
        prompts = [prompt(each, None) if isinstance(each, str) else prompt(*each) for each in inputs]
        encoded = [each.ids for each in tokenizer.encode_batch(prompts, add_special_tokens=False)]
        completed = decoder.complete(model, encoded, bundle.max_length, end)
        return [Answer(tokenizer.decode(ids)) for ids in completed]

    return generate
