"""Section `distillation` of a recipe."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from configs.loader import UNKEYED, Spec
from configs.schema.data import PoolSpec
from configs.schema.models import OptimizerSpec

HIDDEN_OBJECTIVES = ("hidden", "relations", "cosine")  # objectives that compare more than logits


class Objectives(Spec):
    """Share of each term in the distillation loss."""

    kl: float = Field(default=0.0, ge=0, description="KL from the teacher at `temperature`, times temperature squared")
    reverse_kl: float = Field(default=0.0, ge=0, description="KL from the student to the teacher, scaled as kl")
    jensen_shannon: float = Field(
        default=0.0, ge=0, description="generalised Jensen-Shannon divergence by `teacher_share`, scaled as kl"
    )
    cross_entropy: float = Field(default=0.0, ge=0, description="cross-entropy with the label")
    hidden: float = Field(
        default=0.0,
        ge=0,
        description="squared error of token vectors after `hidden_layers`, through a learned projection",
    )
    relations: float = Field(
        default=0.0, ge=0, description="KL of the relations among queries, keys and values of the last layer"
    )
    cosine: float = Field(default=0.0, ge=0, description="1 - cosine of the token vectors after the last layer")

    @model_validator(mode="after")
    def something_is_learned(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError(f"{', '.join(type(self).model_fields)} are all 0: nothing is learned; raise one of them")
        return self


class ObjectiveWeights(Objectives):
    """Share of each term in the distillation loss."""

    kl: float = Field(default=0.9, ge=0, description=Objectives.model_fields["kl"].description)
    cross_entropy: float = Field(default=0.1, ge=0, description=Objectives.model_fields["cross_entropy"].description)


class PhaseSpec(Spec):
    """A phase of training: first epochs with objectives of their own."""

    epochs: int = Field(ge=1, description="passes over the training rows")
    weights: Objectives = Field(description="terms of the loss in these epochs; 0 where none is given")


class FurtherTeacher(Spec):
    """A teacher beside the recipe's own."""

    bundle: str = Field(min_length=1, description="folder of a fine-tuned teacher of the same labels and tokenizer")
    weight: float = Field(default=1.0, gt=0, description="its share of the mean; the recipe's own teacher has 1")


class DistillationSpec(OptimizerSpec):
    """How the student learns from the stored teacher outputs (Hinton et al. 2015, arXiv 1503.02531)."""

    epochs: int = Field(default=5, ge=1, description="passes over the training rows and the pool")
    learning_rate: float = Field(default=3e-4, gt=0, description="peak learning rate of the encoder")
    temperature: float = Field(default=4.0, gt=0, description="softens both distributions in the divergences")
    final_temperature: float | None = Field(
        default=None, gt=0, description="temperature of the last epoch, reached in equal steps; none = no change"
    )
    teacher_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="share of the teacher in the mixture of the Jensen-Shannon divergence",
    )
    weights: ObjectiveWeights = Field(default_factory=ObjectiveWeights, description="terms of the loss")
    stages: list[PhaseSpec] = Field(
        default_factory=list, description="first epochs with weights of their own, for example relations before logits"
    )
    hidden_layers: Annotated[list[int], Field(min_length=1)] = Field(
        default=[-1],
        description="classify: the teacher's layers that weights.hidden imitates, counted from 1 or, from the last, "
        "from -1; the student's layers are spread as evenly",
    )
    relation_layer: int = Field(
        default=-1,
        description="classify: the teacher's layer, counted as hidden_layers, that the student's last one imitates by "
        "weights.relations",
    )
    relation_heads: int = Field(
        default=12, ge=1, description="classify: parts into which a relation cuts the vectors of both models"
    )
    further_teachers: list[FurtherTeacher] = Field(
        default_factory=list,
        description="classify: teachers whose probabilities are averaged with the own one's",
        json_schema_extra=UNKEYED,
    )
    targets: Literal["rows", "teacher"] = Field(
        default="rows",
        description="generate: completions that a student learns to write: the rows' or the teacher's own "
        "(sequence-level distillation)",
    )
    on_policy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="generate: share of the batches whose completions the student writes itself, with the teacher at "
        "work beside it (GKD, arXiv 2306.13649); the divergences alone count there",
    )
    stored_tokens: int = Field(
        default=32, ge=1, description="generate: how many of the teacher's likeliest tokens are stored for each place"
    )
    stored_draws: int = Field(
        default=0,
        ge=0,
        description="generate: how many of the teacher's other tokens are drawn beside them, for a KL without bias; "
        "0 = the others count as one",
    )
    pool: PoolSpec = Field(
        default_factory=PoolSpec, description="made rows without labels, learned from beside the others"
    )

    @model_validator(mode="after")
    def epochs_are_left_after_the_stages(self) -> Self:
        if (first := sum(phase.epochs for phase in self.stages)) >= self.epochs:
            raise ValueError(
                f"stages: {first} epochs of {self.epochs}: none is left for distillation.weights; "
                f"give epochs={first + 1} or more"
            )
        return self

    @model_validator(mode="after")
    def own_texts_are_compared(self) -> Self:
        for weights in (self.weights, *(phase.weights for phase in self.stages)) if self.on_policy else ():
            if not (weights.kl or weights.reverse_kl or weights.jensen_shannon):
                raise ValueError(
                    f"on_policy={self.on_policy:g}: a student's own texts teach by the teacher's distribution; give "
                    "weights.kl, reverse_kl or jensen_shannon, in each of stages too, or use 0"
                )
        return self

    @model_validator(mode="after")
    def draws_stand_for_the_distribution_they_are_from(self) -> Self:
        if not self.stored_draws:
            return self
        if (self.temperature, self.final_temperature or 1.0) != (1.0, 1.0):
            raise ValueError(f"stored_draws={self.stored_draws}: drawn at temperature 1; set temperature=1")
        for weights in (self.weights, *(phase.weights for phase in self.stages)):
            if others := [name for name, weight in weights if weight and name not in ("kl", "cross_entropy")]:
                raise ValueError(f"stored_draws={self.stored_draws}: serve weights.kl alone; {others[0]} needs 0")
        return self

    @property
    def hidden_objectives(self) -> dict[str, float]:
        """Objectives that compare more than logits, each with its largest weight over all epochs, if above 0."""
        every = [self.weights, *(phase.weights for phase in self.stages)]
        most = {name: max(getattr(weights, name) for weights in every) for name in HIDDEN_OBJECTIVES}
        return {name: weight for name, weight in most.items() if weight}

    def vectors_of(self, inside: Collection[str]) -> list[int]:
        """The teacher's layers whose token vectors the objectives `inside` compare; cosine compares the last."""
        return [*(self.hidden_layers if "hidden" in inside else []), *([-1] if "cosine" in inside else [])]

    def during(self, epoch: int) -> Self:
        """The spec of one epoch, counted from 0: with its temperature and its weights.

        The temperature is annealed as in Jafari et al. 2021, arXiv 2104.07163, here in a straight line.
        """
        changes: dict[str, object] = {}
        if self.final_temperature is not None:
            done = epoch / max(1, self.epochs - 1)
            changes["temperature"] = self.temperature + done * (self.final_temperature - self.temperature)
        ends = itertools.accumulate(phase.epochs for phase in self.stages)
        phase = next((phase for phase, end in zip(self.stages, ends, strict=True) if epoch < end), None)
        if phase is not None:
            changes["weights"] = phase.weights
        return self.model_copy(update=changes)


class StoredOutputs(Spec):
    """Which of the teacher's outputs are stored."""

    tokens: int | None = Field(default=None, description="decoder: its likeliest tokens at each place")
    completions: bool = Field(default=False, description="decoder: the texts that it writes, as rows to learn from")
    draws: int = Field(default=0, description="decoder: tokens drawn from the others at each place")
    answers: bool = Field(default=False, description="decoder: the texts that it writes for the validation rows")
    hidden_layers: list[int] = Field(default_factory=list, description="encoder: token vectors after these")
    relation_layer: int | None = Field(default=None, description="encoder: queries, keys and values of this layer")

    def covers(self, other: StoredOutputs) -> bool:
        """Whether hidden states and answers stored by this spec hold all of those that `other` names."""
        return (
            set(other.hidden_layers) <= set(self.hidden_layers)
            and other.relation_layer in (None, self.relation_layer)
            and self.answers >= other.answers
        )


class WeightedTeacher(NamedTuple):
    """A teacher's bundle folder, and its weight in the mean of several."""

    folder: str
    weight: float
