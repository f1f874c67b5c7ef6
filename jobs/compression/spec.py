"""Sections `compression` and `export` of a recipe: an ordered list of steps, and what the file is made for."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from cluster.spec import EngineSpec
from configs.loader import Spec


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    looks_around: ClassVar[bool] = False  # is handed a `Workplace` too
    asks_for_quiet: ClassVar[bool] = False  # waits for measurements itself, or takes one (`cluster.quiet`)

    name: str | None = Field(
        default=None, min_length=1, description="name by which overrides and the search address it"
    )


class PruneSpec(StepSpec):
    """Zeros among the weights of all Linear and Conv1d layers but the head. Before `export`."""

    looks_around: ClassVar[bool] = True
    step: Literal["prune"]
    sparsity: float | None = Field(default=0.3, ge=0, lt=1, description="share of the weights that is zero afterwards")
    scope: Literal["global", "layer"] = Field(
        default="global", description="global = the share of all weights together; layer = the same share of each layer"
    )
    by: Literal["magnitude", "random"] = Field(
        default="magnitude", description="which go first: the smallest, or any, drawn with the recipe's seed"
    )
    pattern: str | None = Field(
        default=None,
        description="instead of sparsity, N:M as in 2:4: of M inputs in a row each output keeps the N that count most",
    )

    @model_validator(mode="before")
    @classmethod
    def a_pattern_takes_the_place_of_the_default_share(cls, given: Any) -> Any:
        return {"sparsity": None} | given if isinstance(given, dict) and given.get("pattern") is not None else given

    @field_validator("pattern", mode="before")
    @classmethod
    def read_as_written(cls, given: Any) -> Any:
        """YAML reads 2:4 without quotes as 2 x 60 + 4, a time of the day."""
        return f"{given // 60}:{given % 60}" if type(given) is int else given

    @field_validator("pattern")
    @classmethod
    def keeps_some_of_each_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"{pattern!r}: is no N:M with 0 < N < M, such as 2:4")
        return pattern

    @model_validator(mode="after")
    def one_thing_says_how_many(self) -> Self:
        if self.pattern is None:
            if self.sparsity is None:
                raise ValueError("sparsity, pattern: neither is given; give one of them")
        elif self.sparsity is not None:
            raise ValueError(
                f"sparsity={self.sparsity:g}: pattern={self.pattern!r} says how many are kept; use sparsity=null"
            )
        elif self.scope != "global":
            raise ValueError(f"scope={self.scope!r}: pattern={self.pattern!r} has a scope of its own; leave it out")
        return self

    @property
    def kept(self) -> tuple[int, int] | None:
        """(N, M) of the pattern."""
        if self.pattern is None:
            return None
        most, size = self.pattern.split(":")
        return int(most), int(size)


class DistillStep(StepSpec):
    """The model under compression learns further from the stored teacher outputs. Before `export`."""

    looks_around: ClassVar[bool] = True
    asks_for_quiet: ClassVar[bool] = True
    step: Literal["distill"]
    epochs: int = Field(default=2, ge=1, description="passes over the training rows and the pool")
    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate of the encoder and the head")
    keep_zeros: bool = Field(
        default=True, description="weights of Linear and Conv1d layers that are zero stay zero; the head's do not"
    )
    sparsity: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of these weights that is zero in the end, the smallest over all layers; it rises from what "
        "there is along a cubic curve (Zhu and Gupta 2017)",
    )
    rising: float = Field(default=0.5, gt=0, lt=1, description="share of the steps in which the sparsity rises")
    quantize_aware: bool = Field(
        default=False,
        description="learn under the rounding of a later step quantize; per_channel is needed there",
    )

    @model_validator(mode="after")
    def a_rising_sparsity_keeps_its_zeros(self) -> Self:
        if self.sparsity is not None and not self.keep_zeros:
            raise ValueError(f"keep_zeros=false: sparsity={self.sparsity:g} is made of zeros that stay; leave it out")
        if self.sparsity is None and self.rising != type(self).model_fields["rising"].default:
            raise ValueError(f"rising={self.rising:g}: no sparsity rises; give sparsity, or leave it out")
        return self

    def refused_by(self, engine: EngineSpec) -> str | None:
        """Why this cannot be trained with `engine`, if it cannot."""
        asked = "quantize_aware=true" if self.quantize_aware else "keep_zeros=true"
        splits_weights = engine.zero_stage == 3 and (engine.workers > 1 or engine.offload != "none")
        split = {
            f"engine.pipeline_stages={engine.pipeline_stages}": engine.pipeline_stages > 1,
            f"engine.tensor_parallel={engine.tensor_parallel}": engine.tensor_parallel > 1,
            "engine.zero_stage=3": splits_weights,
        }
        found = next((layout for layout, holds in split.items() if holds), None)
        if found is None or not (self.keep_zeros or self.quantize_aware):
            return None
        return (
            f"{asked}: with {found} a worker holds parts of the weights, which are masked and rounded whole; "
            "set keep_zeros=false and quantize_aware=false, or use zero_stage 2 or less on whole models"
        )


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embeddings, activations scaled at run time. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")


Step = Annotated[PruneSpec | DistillStep | ExportStep | QuantizeSpec, Field(discriminator="step")]

APART: dict[tuple[str, str], str] = {  # (a step, one somewhere after it): why they cannot be combined
    ("quantize", "quantize"): "its weights are integers already",
}


class ExportSpec(Spec):
    """What the exported file is made for and measured at."""

    runtime: Literal["onnxruntime"] = Field(default="onnxruntime", description="engine that runs the exported file")
    lengths: list[Annotated[int, Field(ge=4)]] = Field(
        default=[16, 32], min_length=1, description="tokens at which it is timed"
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 16], min_length=1, description="rows at which it is timed"
    )
