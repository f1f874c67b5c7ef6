"""Sections `compression`, `export` and `cascade` of a recipe: steps in order, what the file is made for, two as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.loader import Spec


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    looks_around: ClassVar[bool] = False  # is handed a `Workplace` too
    trains: ClassVar[bool] = False  # the model learns: what the steps before it lost is judged after it
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    runtimes: ClassVar[Mapping[str, tuple[str, ...]]] = {"onnxruntime": ()}  # see `jobs.compression.forms`

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

    def ignored_by(self, runtime: str) -> tuple[str, ...]:
        """Fields that mean nothing to a runtime."""
        return self.runtimes[runtime]


class PruneSpec(StepSpec):
    """Global L1 unstructured pruning of all Linear and Conv1d weights, made permanent. Before `export`."""

    tasks: ClassVar[tuple[str, ...]] = ("classify", "generate")
    step: Literal["prune"]
    sparsity: float = Field(default=0.3, ge=0, lt=1, description="share of the weights set to zero, over all layers")


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    tasks: ClassVar[tuple[str, ...]] = ("classify", "generate")
    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embedding tables; what two activations are multiplied with stays in float. After `export`."""

    after_export: ClassVar[bool] = True
    looks_around: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("classify", "generate")
    runtimes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "onnxruntime": (),
        "openvino": ("mode", "per_channel", "reduce_range", "calibration", "guard"),
        "ctranslate2": ("mode", "per_channel", "reduce_range", "calibration_rows", "calibration", "guard"),
    }
    step: Literal["quantize"]
    mode: Literal["dynamic", "static"] = Field(
        default="dynamic",
        description="onnxruntime: scales of activations are found in each batch, or fixed by calibration rows; "
        "openvino always fixes them",
    )
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")
    reduce_range: bool = Field(
        default=False, description="weights in 7 bits, for CPUs without VNNI, where sums of 8-bit products saturate"
    )
    calibration_rows: int = Field(
        default=256, ge=1, description="training rows that fix the scales; static, and openvino"
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="range of an activation: all of it, the one of least KL divergence, or 99.999 % of it; static only",
    )
    guard: bool = Field(
        default=True, description="leave the most sensitive layers in float until the loss is inside max_loss"
    )

    def ignored_by(self, runtime: str) -> tuple[str, ...]:
        """A mode that fixes no scales asks no rows for them."""
        return (
            ("calibration_rows", "calibration")
            if (runtime, self.mode) == ("onnxruntime", "dynamic")
            else self.runtimes[runtime]
        )


Step = Annotated[PruneSpec | ExportStep | QuantizeSpec, Field(discriminator="step")]

APART: dict[tuple[str, str], str] = {  # (a step, one somewhere after it): why they cannot be combined
    ("quantize", "quantize"): "its weights are integers already",
}


class ExportSpec(Spec):
    """What the exported file is made for and measured at."""

    runtime: Literal["onnxruntime", "openvino", "ctranslate2", "auto"] | None = Field(
        default=None,
        description="engine that runs the exported file; auto = of those installed the fastest at lengths and batches "
        "that answers as the model does; default: onnxruntime, of task generate ctranslate2",
    )
    precision: Literal["f32", "bf16", "f16"] | None = Field(
        default=None,
        description="in which the runtime computes what is not int8; default: f32, with auto any that the CPU has",
    )
    parity: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of validation rows on which the file must answer as the model does; default: 0.999, of "
        "decoders 0.95; files in int8 are held to it with auto only, default 0.98",
    )
    lengths: list[Annotated[int, Field(ge=4)]] = Field(
        default=[16, 32], min_length=1, description="tokens at which it is timed"
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 16], min_length=1, description="rows at which it is timed"
    )


class CascadeSpec(Spec):
    """Two exported bundles as one: the first answers what it is sure of, the second the rest."""

    first: str | None = Field(
        default=None, min_length=1, description="the smaller bundle: a folder, or models:/<name>@<alias>"
    )
    second: str | None = Field(
        default=None, min_length=1, description="the larger bundle, the same way; none = <output>/bundle"
    )
    max_loss: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="validation accuracy that may be lost against the second alone, as a share of the rows; "
        "none = budget.min_retention of the teacher's is kept",
    )
