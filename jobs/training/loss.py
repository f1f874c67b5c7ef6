"""What training minimises: one number per example, so that any split of a batch adds up to the same."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.training.spec import DistillationSpec


def label_loss(
    logits_BC: Tensor,
    label_B: Tensor,
    smoothing: float = 0.0,
    weight_C: Tensor | None = None,
    graded: bool = False,
) -> Tensor:
    """Cross-entropy of each example (`grade_loss` where `graded`), [B]; its class counts `weight_C` times.

    Label smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7.
    """
    if graded:
        loss_B = grade_loss(logits_BC, label_B)
    else:
        loss_B = F.cross_entropy(logits_BC.float(), label_B, reduction="none", label_smoothing=smoothing)
    return loss_B if weight_C is None else loss_B * weight_C.to(loss_B.device)[label_B]


def grade_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Squared error of the score of a `GradeHead`, [B]."""
    return -logits_BC.float().gather(1, label_B.unsqueeze(1)).squeeze(1)


def balanced_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Weights [C] in inverse proportion to how often a class occurs; over `labels` [N] their mean is 1.

    King and Zeng 2001, Logistic Regression in Rare Events Data; the `balanced` of scikit-learn.
    """
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / ((counts > 0).sum() * np.maximum(counts, 1))).float()


def distill_loss(
    student_BC: Tensor,
    teacher_BC: Tensor,
    label_B: Tensor,
    spec: DistillationSpec,
    weight_C: Tensor | None = None,
    graded: bool = False,
) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, plus cross-entropy (squared error where `graded`), weighted; [B].

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
    label_loss_B = label_loss(student_BC, label_B, spec.label_smoothing, weight_C, graded)
    return spec.weights.kl * kl_B + spec.weights.cross_entropy * label_loss_B
