"""Sections `compression`, `export` and `cascade` of a recipe: steps in order, the target of the file, two bundles."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from configs.loader import Spec
from configs.schema.engine import EngineSpec
from configs.schema.tasks import ExportRuntime


class StepSpec(Spec):
    """Fields of every step: `step` chooses the function, `name` tells two steps of a kind apart."""

    after_export: ClassVar[bool] = False  # works on the exported file, not on the model
    trains: ClassVar[bool] = False  # the model learns: losses of the steps before are judged after it
    asks_for_quiet: ClassVar[bool] = False  # enters `cluster.quiet` itself, to wait for measurements or to take one

    name: str | None = Field(
        default=None,
        pattern=r"^\w[\w -]*$",
        max_length=64,
        description="letters, digits, _, - and spaces: overrides and the search address the step by it",
    )
    max_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the validation metric that the step may lose; more fails the job. "
        "Default: 1 - budget.min_retention; 1 = anything goes",
    )

    @property
    def kind(self) -> str:
        """The value of `step`."""
        return self.model_dump()["step"]

    @property
    def title(self) -> str:
        """The step's name in overrides, facts and messages."""
        return self.name or self.kind


class PruneSpec(StepSpec):
    """Set weights of all Linear and Conv1d layers but the head to zero. Before `export`."""

    step: Literal["prune"]
    sparsity: float | None = Field(
        default=0.3, ge=0, lt=1, description="share of the weights that is zero after the step"
    )
    scope: Literal["global", "layer"] = Field(
        default="global", description="global = the share of all weights together; layer = the same share of each layer"
    )
    by: Literal["magnitude", "random"] = Field(
        default="magnitude", description="which weights go first: the smallest, or any, drawn with the recipe's seed"
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
        match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern)
        if match is None or not 0 < int(match[1]) < int(match[2]):
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
        default=True, description="zero weights of Linear and Conv1d layers stay zero, the head's excepted"
    )
    sparsity: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of these weights that is zero in the end, the smallest over all layers; it rises from the "
        "share at the start along a cubic curve (Zhu and Gupta 2017)",
    )
    rising: float = Field(default=0.5, gt=0, lt=1, description="share of the steps in which the sparsity rises")
    quantize_aware: bool = Field(
        default=False,
        description="learn under the rounding of a later step quantize, which needs per_channel",
    )

    @model_validator(mode="after")
    def a_rising_sparsity_keeps_its_zeros(self) -> Self:
        if self.sparsity is not None and not self.keep_zeros:
            raise ValueError(f"keep_zeros=false: sparsity={self.sparsity:g} is made of zeros that stay; leave it out")
        if self.sparsity is None and self.rising != type(self).model_fields["rising"].default:
            raise ValueError(f"rising={self.rising:g}: no sparsity rises; give sparsity, or leave it out")
        return self

    def refused_by(self, engine: EngineSpec) -> str | None:
        """Why `engine` cannot train this step; None where it can."""
        field = "quantize_aware=true" if self.quantize_aware else "keep_zeros=true"
        splits_weights = engine.zero_stage == 3 and (engine.workers > 1 or engine.offload != "none")
        split = {
            f"engine.pipeline_stages={engine.pipeline_stages}": engine.pipeline_stages > 1,
            f"engine.tensor_parallel={engine.tensor_parallel}": engine.tensor_parallel > 1,
            "engine.zero_stage=3": splits_weights,
        }
        layout = next((layout for layout, holds in split.items() if holds), None)
        if layout is None or not (self.keep_zeros or self.quantize_aware):
            return None
        return (
            f"{field}: with {layout} a worker holds parts of the weights, which are masked and rounded whole; "
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
    """Structured pruning: whole heads, feed-forward units, layers and dimensions leave a model. Before `export`.

    The least important ones leave; the fields give their numbers, or a limit on an encoder's time does.
    """

    asks_for_quiet: ClassVar[bool] = True
    step: Literal["shrink"]
    importance: Literal["magnitude", "taylor"] = Field(
        default="taylor",
        description="magnitude = norms of the weights; taylor = |weight x gradient| over calibration rows",
    )
    loss: Literal["teacher", "labels"] = Field(
        default="teacher", description="taylor: the loss, KL from the stored teacher outputs or cross-entropy"
    )
    calibration_rows: int = Field(default=512, ge=1, description="taylor: training rows, drawn at random")
    heads: Part | None = Field(default=None, description="attention heads that each layer keeps: a number or a share")
    feed_forward: Part | None = Field(
        default=None, description="feed-forward units that each layer keeps: a number or a share"
    )
    hidden: Part | None = Field(default=None, description="kept width of a token's vector: a number or a share")
    layers: Part | None = Field(
        default=None, description="layers that are kept, the most important ones: a number or a share"
    )
    max_ms: float | None = Field(
        default=None,
        gt=0,
        description="instead of sizes: milliseconds of one row of 32 tokens on one thread of this machine, in ONNX "
        "Runtime, float32; heads, units and layers are chosen to fit",
    )
    speedup: float | None = Field(
        default=None, gt=1, description="instead of sizes: times by which the model gets faster, as max_ms measures"
    )

    @property
    def kept(self) -> dict[str, int | float]:
        """The given sizes among heads, feed_forward, hidden and layers."""
        parts = {name: getattr(self, name) for name in ("heads", "feed_forward", "hidden", "layers")}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def limit(self) -> str | None:
        """Name of the field that limits the time; None where neither does."""
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
    """Cut token embeddings and tokenizer to the tokens of the training rows and the tokens that spell any text.
    Before `export`."""

    step: Literal["vocabulary"]
    min_count: int = Field(
        default=1, ge=1, description="times that a kept token occurs in the training rows and the pool"
    )
    keep_first: int = Field(
        default=0,
        ge=0,
        description="tokens with a lower id are kept too: the more frequent ones where the tokenizer was made",
    )
    characters: Literal["all", "seen"] = Field(
        default="all",
        description="single characters that stay tokens: all, or seen = the characters of kept tokens; words with "
        "other characters become unknown",
    )


class ClusterSpec(StepSpec):
    """Weight sharing: each matrix takes its weights from a codebook found by k-means. Before `export`.

    Step `code` after `export` stores the codebooks."""

    step: Literal["cluster"]
    bits: int = Field(
        default=4, ge=2, le=8, description="bits of an index; a matrix has at most 2^bits different weights"
    )
    steps: int = Field(
        default=200, ge=0, description="training steps of the codebooks on the teacher's outputs; 0 = k-means alone"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="peak rate of the codebooks' training")


class FoldSpec(StepSpec):
    """Fold BatchNorm into the convolution before it, and LayerNorm's scale and shift into the layer after it unless
    another layer reads them. Before `export`."""

    step: Literal["fold"]


class ExportStep(StepSpec):
    """Write the file of the runtime in `export.runtime`, for any batch and length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Store weights and embedding tables in 8 bits; a decoder has the weights of its layers alone stored so, in 8 or 4
    bits, and with `tokens` its token table and output layer, too. Products of two activations stay in float. After
    `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    bits: Literal[8, 4] = Field(
        default=8, description="bits of a weight; ctranslate2: 4 makes the file smaller, but no faster than float"
    )
    tokens: bool = Field(
        default=False,
        description="ctranslate2: token table and output layer in 8 bits as well: smaller, and tokens that are nearly "
        "as likely may change places",
    )
    group: int = Field(default=32, ge=2, multiple_of=2, description="inputs that share a scale, with bits: 4")
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")
    reduce_range: bool = Field(
        default=False, description="weights in 7 bits, for CPUs without VNNI, where sums of 8-bit products saturate"
    )
    calibration_rows: int = Field(default=256, ge=1, description="training rows that fix the ranges of activations")
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="onnxruntime: range of an activation: all values, the range of least KL divergence, or 99.999 %",
    )
    guard: bool = Field(
        default=True,
        description="leave the most sensitive layers in float until the loss is inside max_loss",
    )

    @model_validator(mode="after")
    def tokens_have_8_bits(self) -> Self:
        if self.tokens and self.bits != 8:
            raise ValueError(f"tokens=true: with bits={self.bits} they stay in float; leave it out, or take bits=8")
        return self

    @model_validator(mode="after")
    def groups_are_of_4_bits(self) -> Self:
        if self.bits == 8 and self.group != type(self).model_fields["group"].default:
            raise ValueError(f"group={self.group}: means nothing with bits=8, which have a scale a row; leave it out")
        return self


class CodeSpec(StepSpec):
    """Store weights of few different values as packed indices into a codebook, looked up when the file is loaded;
    the model stays exactly the same. After `export`."""

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
    """The runtime of the exported file, and the shapes at which it is timed."""

    runtime: ExportRuntime | None = Field(
        default=None,
        description="engine that runs the exported file; auto = the fastest installed one, at lengths and batches, "
        "whose answers agree with the model's; default: onnxruntime, for task generate ctranslate2",
    )
    precision: Literal["f32", "bf16", "f16"] | None = Field(
        default=None,
        description="number format of what is not int8; default: f32, with runtime auto any that the CPU computes",
    )
    parity: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of validation rows on which the file must answer as the model does; default: 0.999, for "
        "decoders 0.95. An int8 file is checked with runtime auto or a precision other than f32, default 0.98; an int8 "
        "file of a decoder always, default 0.8, in int4 0.4",
    )
    lengths: list[Annotated[int, Field(ge=4)]] = Field(
        default=[16, 32, 64, 128], min_length=1, description="tokens at which it is timed"
    )
    batches: list[Annotated[int, Field(ge=1)]] = Field(
        default=[1, 8, 32], min_length=1, description="rows at which it is timed"
    )


class CascadeSpec(Spec):
    """Two exported bundles as one: the first answers where it is sure, the second answers the rest."""

    first: str | None = Field(
        default=None, min_length=1, description="the smaller bundle: a folder, or models:/<name>@<alias>"
    )
    second: str | None = Field(
        default=None,
        min_length=1,
        description="the larger bundle: a folder, or models:/<name>@<alias>; none = <output>/bundle",
    )
    max_loss: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="validation accuracy that the pair may lose against the second alone, as a share of the rows; "
        "none = it keeps budget.min_retention of the teacher's accuracy",
    )
