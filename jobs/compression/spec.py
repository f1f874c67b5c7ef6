"""Sections `compression` and `export` of a recipe: an ordered list of steps, and what the file is made for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from configs.loader import Spec


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    looks_around: ClassVar[bool] = False  # is handed a `Workplace` too
    trains: ClassVar[bool] = False  # the model learns: what the steps before it lost is judged after it

    name: str | None = Field(
        default=None, min_length=1, description="name by which overrides and the search address it"
    )
    max_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the validation metric that it may lose; more fails the job. "
        "Default: 1 - budget.min_retention; 1 = anything goes",
    )

    @property
    def title(self) -> str:
        """What overrides, facts and messages call it."""
        return self.name or self.model_dump()["step"]


class PruneSpec(StepSpec):
    """Global L1 unstructured pruning of all Linear and Conv1d weights, made permanent. Before `export`."""

    step: Literal["prune"]
    sparsity: float = Field(default=0.3, ge=0, lt=1, description="share of the weights set to zero, over all layers")


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embedding tables; what two activations are multiplied with stays in float. After `export`."""

    after_export: ClassVar[bool] = True
    looks_around: ClassVar[bool] = True
    step: Literal["quantize"]
    mode: Literal["dynamic", "static"] = Field(
        default="dynamic", description="scales of activations: found in each batch, or fixed by calibration rows"
    )
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")
    reduce_range: bool = Field(
        default=False, description="weights in 7 bits, for CPUs without VNNI, where sums of 8-bit products saturate"
    )
    calibration_rows: int = Field(default=256, ge=1, description="training rows that fix the scales; static only")
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="range of an activation: all of it, the one of least KL divergence, or 99.999 % of it; static only",
    )
    guard: bool = Field(
        default=True, description="leave the most sensitive layers in float until the loss is inside max_loss"
    )

    @model_validator(mode="after")
    def only_static_is_calibrated(self) -> Self:
        for name in ("calibration_rows", "calibration") if self.mode == "dynamic" else ():
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: {value!r}: mode 'dynamic' fixes no scales; use mode: static, or leave it out"
                )
        return self


Step = Annotated[PruneSpec | ExportStep | QuantizeSpec, Field(discriminator="step")]

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
