"""Sections `compression` and `export` of a recipe: an ordered list of steps, and what the file is made for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

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
    """Global L1 unstructured pruning of all Linear and Conv1d weights, made permanent. Before `export`."""

    step: Literal["prune"]
    sparsity: float = Field(default=0.3, ge=0, lt=1, description="share of the weights set to zero, over all layers")


def _number_or_share(value: float) -> float:
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError(f"{value!r}: a share is above 0 and at most 1.0, a number is whole")
    if value < 1 and isinstance(value, int):
        raise ValueError(f"{value!r}: give 1 or more, or a share of what there is, such as 0.5")
    return value


Part = Annotated[int | float, AfterValidator(_number_or_share)]


class ShrinkSpec(StepSpec):
    """Structured pruning: whole heads, feed-forward units, layers and dimensions leave an encoder. Before `export`.

    Those that matter least, so many as the fields say, or as a limit on the time of the model asks for.
    """

    looks_around: ClassVar[bool] = True
    asks_for_quiet: ClassVar[bool] = True
    step: Literal["shrink"]
    importance: Literal["magnitude", "taylor"] = Field(
        default="taylor",
        description="magnitude = norms of the weights; taylor = |weight x gradient| over calibration rows",
    )
    loss: Literal["teacher", "labels"] = Field(
        default="teacher", description="taylor: of the KL from the stored teacher outputs, or of the cross-entropy"
    )
    calibration_rows: int = Field(default=512, ge=1, description="taylor: training rows, drawn at random")
    heads: Part | None = Field(default=None, description="attention heads that each layer keeps: a number or a share")
    feed_forward: Part | None = Field(default=None, description="feed-forward units that each layer keeps, likewise")
    hidden: Part | None = Field(default=None, description="width of a token's vector that is kept, likewise")
    layers: Part | None = Field(default=None, description="layers that are kept, likewise; those that matter most")
    max_ms: float | None = Field(
        default=None,
        gt=0,
        description="instead: milliseconds of one row of 32 tokens on one thread of this machine, in ONNX Runtime, "
        "float32; heads, units and layers are chosen to fit",
    )
    speedup: float | None = Field(
        default=None, gt=1, description="instead: times by which the model becomes faster, measured likewise"
    )

    @property
    def kept(self) -> dict[str, int | float]:
        """What is kept of heads, feed-forward units, hidden width and layers, where that is said."""
        given = {name: getattr(self, name) for name in ("heads", "feed_forward", "hidden", "layers")}
        return {name: part for name, part in given.items() if part is not None}

    @property
    def limit(self) -> str | None:
        """The name of the field that limits the time, if one does."""
        return next((name for name in ("max_ms", "speedup") if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def sizes_are_given_or_chosen(self) -> Self:
        if self.max_ms is not None and self.speedup is not None:
            raise ValueError(f"max_ms={self.max_ms:g}, speedup={self.speedup:g}: two limits on one time; give one")
        if self.limit and self.kept:
            name, part = next(iter(self.kept.items()))
            raise ValueError(
                f"{name}={part:g}: sizes are chosen under {self.limit}; leave it out, or shrink in a step before"
            )
        if not self.limit and not self.kept:
            raise ValueError("nothing to leave out: give heads, feed_forward, hidden or layers, or max_ms or speedup")
        return self

    @model_validator(mode="after")
    def rows_are_for_gradients(self) -> Self:
        for name in ("loss", "calibration_rows") if self.importance == "magnitude" else ():
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}={value!r}: importance 'magnitude' looks at no rows; leave it out, or use taylor"
                )
        return self


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embeddings, activations scaled at run time. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")


Step = Annotated[PruneSpec | ShrinkSpec | ExportStep | QuantizeSpec, Field(discriminator="step")]

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
