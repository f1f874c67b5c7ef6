"""Reference bundles in eager torch: the one place where safetensors bundles run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from jobs.models import encoder
from jobs.models.reference import read_reference
from serving.bundle import Bundle
from serving.runtime import TOKENS_PER_BATCH, Classifier


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
