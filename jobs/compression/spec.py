"""Sections `compression` and `export` of a recipe: an ordered list of steps, and what the file is made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.loader import Spec


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    looks_around: ClassVar[bool] = False  # is handed a `Workplace` too
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    runtimes: ClassVar[Mapping[str, tuple[str, ...]]] = {"onnxruntime": ()}  # see `jobs.compression.forms`

    name: str | None = Field(
        default=None, min_length=1, description="name by which overrides and the search address it"
    )


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
    """Int8 weights and embeddings; activations are scaled at run time, of OpenVINO as calibration rows say. Of decoders
    the weights of the layers alone. After `export`."""

    after_export: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("classify", "generate")
    runtimes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "onnxruntime": ("calibration_rows",),
        "openvino": ("per_channel",),
        "ctranslate2": ("per_channel", "calibration_rows"),
    }
    step: Literal["quantize"]
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")
    calibration_rows: int = Field(default=256, ge=1, description="openvino: training rows that fix the scales")


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
