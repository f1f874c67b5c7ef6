"""Section `distillation` of a recipe."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from configs.loader import Spec
from jobs.models.spec import OptimizerSpec

OF_LOGITS = ("kl", "reverse_kl", "jensen_shannon", "cross_entropy")  # terms that need no token of the teacher's


class ObjectiveWeights(Spec):
    """Share of each term in the distillation loss."""

    kl: float = Field(default=0.9, ge=0, description="KL from the teacher at `temperature`, times temperature squared")
    reverse_kl: float = Field(default=0.0, ge=0, description="KL from the student to the teacher, likewise")
    jensen_shannon: float = Field(
        default=0.0, ge=0, description="generalised Jensen-Shannon divergence by `teacher_share`, likewise"
    )
    cross_entropy: float = Field(default=0.1, ge=0, description="cross-entropy with the label")

    @model_validator(mode="after")
    def something_is_learned(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError(f"{', '.join(type(self).model_fields)} are all 0: nothing is learned; raise one of them")
        return self


class DistillationSpec(OptimizerSpec):
    """How the student learns from the stored teacher outputs (Hinton et al. 2015, arXiv 1503.02531)."""

    learning_rate: float = Field(default=3e-4, gt=0, description="peak learning rate of the encoder")
    temperature: float = Field(default=4.0, gt=0, description="softens both distributions in the divergences")
    teacher_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="share of the teacher in the mixture of the Jensen-Shannon divergence, where that has a weight",
    )
    weights: ObjectiveWeights = Field(default_factory=ObjectiveWeights, description="terms of the loss")
    stored_tokens: int = Field(
        default=32, ge=1, description="generate: how many of the teacher's likeliest tokens are stored for each place"
    )
