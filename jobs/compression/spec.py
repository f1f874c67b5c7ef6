"""Sections `compression` and `export` of a recipe: an ordered list of steps, and what the file is made for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.loader import Spec


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    looks_around: ClassVar[bool] = False  # is handed a `Workplace` too

    name: str | None = Field(
        default=None, min_length=1, description="name by which overrides and the search address it"
    )


class PruneSpec(StepSpec):
    """Global L1 unstructured pruning of all Linear and Conv1d weights, made permanent. Before `export`."""

    step: Literal["prune"]
    sparsity: float = Field(default=0.3, ge=0, lt=1, description="share of the weights set to zero, over all layers")


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embeddings, activations scaled at run time. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")


Step = Annotated[PruneSpec | ExportStep | QuantizeSpec, Field(discriminator="step")]

APART: dict[tuple[str, str], str] = {  # (a step, one somewhere after it): why they cannot be combined
    ("quantize", "quantize"): "its weights are integers already",
}


class ExportSpec(Spec):
    """What the exported file is made for and measured at."""

    runtime: Literal["onnxruntime"] = Field(default="onnxruntime", description="engine that runs the exported file")
    lengths: list[Annotated[int, Field(ge=4)]] = Field(
        default=[16, 32, 64, 128], min_length=1, description="tokens at which it is timed"
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 8, 32], min_length=1, description="rows at which it is timed"
    )
