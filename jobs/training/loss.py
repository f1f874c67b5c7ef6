"""What training minimises: one number per example, so that any split of a batch adds up to the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from jobs.training.spec import DistillationSpec


def label_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy of each example, [B]."""
    return F.cross_entropy(logits_BC.float(), label_B, reduction="none")


def distill_loss(student_BC: Tensor, teacher_BC: Tensor, label_B: Tensor, spec: DistillationSpec) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, plus cross-entropy, weighted; [B].

    Hinton, Vinyals, Dean 2015 (arXiv 1503.02531): T^2 keeps the gradient's size as T changes.
    """
    temperature = spec.temperature
    kl_BC = F.kl_div(
        F.log_softmax(student_BC.float() / temperature, dim=-1),
        F.log_softmax(teacher_BC.float() / temperature, dim=-1),
        reduction="none",
        log_target=True,
    )
    kl_B = kl_BC.sum(-1) * temperature**2
    return spec.weights.kl * kl_B + spec.weights.cross_entropy * label_loss(student_BC, label_B)
