"""Sections `engine` and `tracking` of a recipe: how models are trained, and where runs are recorded."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.loader import UNKEYED, Spec

Precision = Literal["fp32", "bf16", "bf16_autocast", "fp16"]


class LossScaleSpec(Spec):
    """Dynamic loss scaling of fp16 (Micikevicius et al. 2018, arXiv 1710.03740)."""

    initial_power: int = Field(default=16, ge=0, le=32, description="the first scale is two to this power")
    window: int = Field(default=1000, ge=1, description="steps without overflow after which the scale doubles")
    minimum: float = Field(default=1.0, gt=0, description="the scale is never halved below this")


class EngineSpec(Spec):
    """How a model is trained and a teacher asked: workers, precision, batches."""

    workers: int = Field(default=1, ge=1, description="Ray Train workers, each drives one device")
    cpus_per_worker: int = Field(
        default=2, ge=1, description="CPU cores of a worker; its math threads follow", json_schema_extra=UNKEYED
    )
    use_gpu: bool = Field(default=False, description="a GPU for each worker (NCCL) instead of CPU cores (gloo)")
    gpus_per_worker: float = Field(
        default=1.0, gt=0, le=1, description="share of a GPU that a worker takes, with use_gpu; trials may share one"
    )
    precision: Precision = Field(
        default="bf16_autocast",
        description="fp32; bf16_autocast = fp32 weights with bfloat16 matrix products; bf16 or fp16 = 16-bit weights "
        "beside fp32 ones in the optimizer",
    )
    loss_scale: LossScaleSpec = Field(default_factory=LossScaleSpec, description="dynamic loss scaling, fp16 only")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="DeepSpeed ZeRO: what data-parallel workers split. 0 = nothing, 1 = optimizer state, "
        "2 = and gradients, 3 = and weights",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="what ZeRO keeps in CPU memory: optimizer state, or (stage 3) weights as well"
    )
    pipeline_stages: int = Field(
        default=1, ge=1, description="consecutive parts of about equal work into which the layers are cut"
    )
    tensor_parallel: int = Field(default=1, ge=1, description="ways each layer is split (DeepSpeed AutoTP)")
    tokens_per_batch: int = Field(default=512, ge=1, description="tokens in a global batch, padding included")
    accumulation: int = Field(
        default=1, ge=1, description="micro-batches of a global batch on each worker; a pipeline overlaps them"
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass instead of keeping them"
    )
    gradient_clipping: float = Field(
        default=1.0, ge=0, description="largest global L2 norm of the gradient; 0 = no limit"
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="restarts after a worker died, from the last checkpoint",
        json_schema_extra=UNKEYED,
    )
    checkpoint_seconds: float = Field(
        default=600,
        gt=0,
        description="time after which an epoch that goes on has a checkpoint inside it, seconds",
        json_schema_extra=UNKEYED,
    )

    @property
    def of_each_worker(self) -> dict[str, float]:
        """Ray's resources by kind, and the amount that each worker takes."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.use_gpu else {})

    @model_validator(mode="after")
    def layout_is_possible(self) -> Self:
        stages, ways = self.pipeline_stages, self.tensor_parallel
        if stages > 1 and ways > 1:
            raise ValueError(
                f"pipeline_stages={stages} with tensor_parallel={ways}: DeepSpeed's AutoTP splits no pipeline; "
                "set one of them to 1"
            )
        for name, parts in (("pipeline_stages", stages), ("tensor_parallel", ways)):
            if self.workers % parts:
                below, above = self.workers // parts * parts, -(-self.workers // parts) * parts
                fits = " or ".join(str(each) for each in (below, above) if each)
                raise ValueError(
                    f"workers={self.workers} / {name}={parts} = {self.workers / parts:g} data-parallel copies, not a "
                    f"whole number; use workers={fits}"
                )
        if stages > 1 and self.zero_stage > 1:
            raise ValueError(
                f"zero_stage={self.zero_stage} with pipeline_stages={stages}: a pipeline keeps its gradients until "
                "all micro-batches are through; use zero_stage 0 or 1"
            )
        return self

    @model_validator(mode="after")
    def a_scaled_loss_is_fp16(self) -> Self:
        changed = self.loss_scale.model_dump(exclude_defaults=True)
        if changed and self.precision != "fp16":
            name, value = next(iter(changed.items()))
            raise ValueError(
                f"loss_scale.{name}={value:g} with precision={self.precision}: fp16 alone is scaled; leave it out"
            )
        return self

    @model_validator(mode="after")
    def a_shared_gpu_has_one_worker(self) -> Self:
        if self.gpus_per_worker < 1 and not self.use_gpu:
            raise ValueError(f"gpus_per_worker={self.gpus_per_worker:g} with use_gpu=false: it would be ignored")
        if self.gpus_per_worker < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker={self.gpus_per_worker:g} with workers={self.workers}: NCCL joins no two workers on "
                "one GPU; use 1"
            )
        return self

    @model_validator(mode="after")
    def offload_has_something_to_move(self) -> Self:
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(f"offload={self.offload} needs zero_stage {needed} or more, got {self.zero_stage}")
        if self.offload != "none" and self.pipeline_stages > 1:
            raise ValueError(
                f"offload={self.offload} with pipeline_stages={self.pipeline_stages}: not combined; drop one"
            )
        return self


class TrackingSpec(Spec):
    """Where runs are recorded; the server's address comes from MLFLOW_TRACKING_URI."""

    experiment: str = Field(default="slimcart", min_length=1, description="MLflow experiment")
