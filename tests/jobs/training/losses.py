"""Logits at random, weights of all terms at once, and what they come to by the formula."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from configs.schema.distillation import DistillationSpec


def spec(kl: float = 1.0, cross_entropy: float = 0.0, temperature: float = 1.0, **others: float) -> DistillationSpec:
    weights = {"kl": kl, "cross_entropy": cross_entropy} | others
    return DistillationSpec.model_validate({"temperature": temperature, "weights": weights})


def logits(rows: int = 6, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 2


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Of one row, in float64 and without torch."""
    powers = np.exp(logits.astype(np.float64) / temperature)
    return powers / powers.sum()


def divergences_by_formula(student: np.ndarray, teacher: np.ndarray, given: DistillationSpec) -> float:
    """T^2 (w1 KL(p || q) + w2 KL(q || p) + w3 (a KL(p || m) + (1 - a) KL(q || m))) of one row, m = a p + (1 - a) q."""
    p, q, share = softmax(teacher, given.temperature), softmax(student, given.temperature), given.teacher_share
    m, weights = share * p + (1 - share) * q, given.weights
    total = weights.kl * (p * np.log(p / q)).sum() + weights.reverse_kl * (q * np.log(q / p)).sum()
    total += weights.jensen_shannon * share * (p * np.log(p / m)).sum()
    total += weights.jensen_shannon * (1 - share) * (q * np.log(q / m)).sum()
    return given.temperature**2 * total


def drawn(seed: int) -> DistillationSpec:
    """All terms of logits at once, each by a weight of its own; the last seeds leave out one of them."""
    chance = np.random.default_rng(seed)
    names = ("kl", "reverse_kl", "jensen_shannon", "cross_entropy")
    weights = dict(zip(names, chance.uniform(0.2, 2.0, 4).tolist(), strict=True))
    if seed >= 3:
        weights[names[seed - 3]] = 0.0
    fields = {"temperature": chance.uniform(0.5, 5.0), "teacher_share": chance.uniform(0.1, 0.9), "weights": weights}
    return DistillationSpec.model_validate(fields | {"label_smoothing": chance.uniform(0.0, 0.3)})
