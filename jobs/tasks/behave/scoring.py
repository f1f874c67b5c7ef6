"""What a model of next items says of questions, so that it is measured as every baseline is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from jobs.models.items import NextItems
from jobs.tasks.behave.catalogue import Catalogue
from jobs.tasks.behave.examples import collate, seen
from jobs.tasks.behave.metrics import AT_ONCE, Scorer
from jobs.tasks.behave.rows import History

if TYPE_CHECKING:
    import numpy as np


def scorer(model: NextItems, catalogue: Catalogue) -> Scorer:
    """Logits of the model after all that is known."""
    return lambda questions: _after(model, model, [each.known for each in questions], catalogue)


def vectors(model: NextItems, histories: Sequence[History], catalogue: Catalogue) -> np.ndarray:
    """What the model knows of each customer after the history, [N, H]."""
    return _after(model, model.vectors, histories, catalogue)


def _after(
    model: NextItems, ask: Callable[..., torch.Tensor], histories: Sequence[History], catalogue: Catalogue
) -> np.ndarray:
    """What `ask` gives for the end of each history, by the model in eval mode."""
    was_training = model.training
    model.eval()
    found = []
    for start in range(0, len(histories), AT_ONCE):
        part = histories[start : start + AT_ONCE]
        batch = collate([seen(each, catalogue, model.sizes.max_length) for each in part])
        with torch.no_grad():
            found.append(ask(batch["input_ids"], batch["position_ids"], batch["ends"]))
    model.train(was_training)
    return torch.cat(found).numpy()
