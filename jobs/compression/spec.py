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


class VocabularySpec(StepSpec):
    """Token embeddings and tokenizer cut to the tokens that the training rows use, and those that spell any text.
    Before `export`."""

    looks_around: ClassVar[bool] = True
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

    looks_around: ClassVar[bool] = True
    step: Literal["cluster"]
    bits: int = Field(default=4, ge=2, le=8, description="of an index; a matrix has at most 2^bits different weights")
    steps: int = Field(
        default=200, ge=0, description="training steps of the codebooks by what the teacher says; 0 = k-means alone"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="peak rate of the codebooks' training")


class FoldSpec(StepSpec):
    """BatchNorm into the convolution before it, LayerNorm's scale and shift into the layer after it where nothing else
    reads them. Before `export`."""

    looks_around: ClassVar[bool] = True
    step: Literal["fold"]


class ExportStep(StepSpec):
    """torch -> file of the runtime in `export.runtime`, any batch and any length. Exactly one."""

    step: Literal["export"]


class QuantizeSpec(StepSpec):
    """Int8 weights and embeddings, activations scaled at run time. After `export`."""

    after_export: ClassVar[bool] = True
    step: Literal["quantize"]
    per_channel: bool = Field(default=True, description="one scale per output channel instead of one per matrix")


class CodeSpec(StepSpec):
    """Weights of few different values stored as packed indices into a codebook, looked up when the file is loaded;
    exactly the same model. After `export`."""

    after_export: ClassVar[bool] = True
    looks_around: ClassVar[bool] = True
    step: Literal["code"]


Step = Annotated[
    PruneSpec | VocabularySpec | ClusterSpec | FoldSpec | ExportStep | QuantizeSpec | CodeSpec,
    Field(discriminator="step"),
]

APART: dict[tuple[str, str], str] = {  # (a step, one somewhere after it): why they cannot be combined
    ("quantize", "quantize"): "its weights are integers already",
    ("vocabulary", "vocabulary"): "the tokens are those of the training rows already",
    ("vocabulary", "distill"): "the rows to learn from are in the tokens before it; distil first",
    ("cluster", "prune"): "zeros are a weight more than its codebooks have; prune before it",
    ("cluster", "fold"): "what is folded in would scale the weights out of their codebooks; fold before it",
    ("cluster", "distill"): "weights that learn leave their codebooks, which cluster trains itself; distil before it",
    ("fold", "distill"): "a norm that is folded learns no more; fold after it",
    ("code", "quantize"): "weights out of codebooks are not seen there; quantize before it, or cluster by fewer bits",
    ("code", "code"): "its weights are indices already",
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
