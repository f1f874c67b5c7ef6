"""A model of next items as a `Scorer`, so that it is measured as every baseline is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from jobs.models.items import NextItems
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import collate, seen
from jobs.tasks.behave.metrics import Scorer
from jobs.tasks.behave.splits import Question

if TYPE_CHECKING:
    import numpy as np


def scorer(model: NextItems, catalogue: Catalogue) -> Scorer:
    """Logits of the model after all that is known."""

    def score(questions: Sequence[Question]) -> np.ndarray:
        batch = collate([seen(each.known, catalogue, model.sizes.max_length) for each in questions])
        was_training = model.training
        model.eval()
        with torch.no_grad():
            logits_QI = model(batch["input_ids"], batch["position_ids"], batch["ends"])
        model.train(was_training)
        return logits_QI.numpy()

    return score
