"""Sections `compression`, `export` and `cascade` of a recipe: steps in order, what the file is made for, two as one."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from configs.loader import Spec
from configs.schema.engine import EngineSpec
from configs.schema.tasks import ExportRuntime


class StepSpec(Spec):
    """What every step has: `step` chooses the function, `name` tells two of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    trains: ClassVar[bool] = False  # the model learns: what the steps before it lost is judged after it
    asks_for_quiet: ClassVar[bool] = False  # waits for measurements itself, or takes one (`cluster.quiet`)

    name: str | None = Field(
        default=None,
        pattern=r"^\w[\w -]*$",
        max_length=64,
        description="letters, digits, _, - and spaces: by it overrides and the search address the step",
    )
    max_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the validation metric that it may lose; more fails the job. "
        "Default: 1 - budget.min_retention; 1 = anything goes",
    )

    @property
    def kind(self) -> str:
        """The value of `step`."""
        return self.model_dump()["step"]

    @property
    def title(self) -> str:
        """What overrides, facts and messages call it."""
        return self.name or self.kind


class PruneSpec(StepSpec):
    """Zeros among the weights of all Linear and Conv1d layers but the head. Before `export`."""

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

    trains: ClassVar[bool] = True
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


class VocabularySpec(StepSpec):
    """Token embeddings and tokenizer cut to the tokens that the training rows use, and those that spell any text.
    Before `export`."""

    step: Literal["vocabulary"]
    min_count: int = Field(
        default=1, ge=1, description="times that a kept token occurs in the training rows and the pool"
    )
    keep_first: int = Field(
        default=0,
        ge=0,
        description="kept besides: tokens with a lower id, the more frequent ones where the tokenizer was made",
    )
    characters: Literal["all", "seen"] = Field(
        default="all",
        description="single characters that stay tokens: all, or those that kept tokens consist of, so that words with "
        "others become unknown",
    )


class ClusterSpec(StepSpec):
    """Weight sharing: each matrix takes its weights from a codebook found by k-means. Before `export`.

    Stored so by step `code` after `export`."""

    step: Literal["cluster"]
    bits: int = Field(default=4, ge=2, le=8, description="of an index; a matrix has at most 2^bits different weights")
    steps: int = Field(
        default=200, ge=0, description="training steps of the codebooks by what the teacher says; 0 = k-means alone"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="peak rate of the codebooks' training")


class FoldSpec(StepSpec):
    """BatchNorm into the convolution before it, LayerNorm's scale and shift into the layer after it where nothing else
    reads them. Before `export`."""

    step: Literal["fold"]


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Weights and embedding tables in 8 bits, of decoders the weights of the layers alone, in 8 or 4; what two
    activations are multiplied with stays in float. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    bits: Literal[8, 4] = Field(
        default=8, description="of a weight; ctranslate2: 4 makes the file smaller, answers take as long as in float"
    )
    group: int = Field(default=32, ge=2, multiple_of=2, description="inputs that share a scale, with bits: 4")
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")
    reduce_range: bool = Field(
        default=False, description="weights in 7 bits, for CPUs without VNNI, where sums of 8-bit products saturate"
    )
    calibration_rows: int = Field(
        default=256, ge=1, description="training rows that fix the ranges of activations, which no other row changes"
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="range of an activation: all of it, the one of least KL divergence, or 99.999 % of it; onnxruntime",
    )
    guard: bool = Field(
        default=True,
        description="leave the most sensitive layers in float until the loss is inside max_loss",
    )

    @model_validator(mode="after")
    def groups_are_of_4_bits(self) -> Self:
        if self.bits == 8 and self.group != type(self).model_fields["group"].default:
            raise ValueError(f"group={self.group}: means nothing with bits=8, which have a scale a row; leave it out")
        return self


class CodeSpec(StepSpec):
    """Weights of few different values stored as packed indices into a codebook, looked up when the file is loaded;
    exactly the same model. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["code"]


Step = Annotated[
    PruneSpec
    | ShrinkSpec
    | DistillStep
    | VocabularySpec
    | ClusterSpec
    | FoldSpec
    | ExportStep
    | QuantizeSpec
    | CodeSpec,
    Field(discriminator="step"),
]

APART: dict[tuple[str, str], str] = {  # (a step, one somewhere after it): why they cannot be combined
    ("quantize", "quantize"): "its weights are integers already",
    ("vocabulary", "vocabulary"): "the tokens are those of the training rows already",
    ("vocabulary", "distill"): "the rows to learn from are in the tokens before it; distil first",
    ("cluster", "prune"): "zeros are a weight more than its codebooks have; prune before it",
    ("cluster", "fold"): "what is folded in would scale the weights out of their codebooks; fold before it",
    ("cluster", "distill"): "weights that learn leave their codebooks, which cluster trains itself; distil before it",
    ("fold", "fold"): "its norms are folded already",
    ("fold", "distill"): "a norm that is folded learns no more; fold after it",
    ("code", "quantize"): "weights out of codebooks are not seen there; quantize before it, or cluster by fewer bits",
    ("code", "code"): "its weights are indices already",
}


class ExportSpec(Spec):
    """What the exported file is made for and measured at."""

    runtime: ExportRuntime | None = Field(
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
        "decoders 0.95; files in int8 are held to it with auto or another precision than f32, default 0.98, and those "
        "of decoders, default 0.8, in int4 0.4",
    )
    lengths: list[Annotated[int, Field(ge=4)]] = Field(
        default=[16, 32, 64, 128], min_length=1, description="tokens at which it is timed"
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 8, 32], min_length=1, description="rows at which it is timed"
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
