"""Sections of a recipe that say what a run stands on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.loader import Spec

Precision = Literal["fp32", "bf16_autocast"]


class EngineSpec(Spec):
    """How a model is trained: workers, precision, batches."""

    workers: int = Field(default=1, ge=1, description="Ray Train workers, each drives one device")
    cpus_per_worker: int = Field(default=2, ge=1, description="CPU cores of a worker; its math threads follow")
    use_gpu: bool = Field(default=False, description="one GPU per worker (NCCL) instead of CPU cores (gloo)")
    precision: Precision = Field(
        default="bf16_autocast", description="fp32, or fp32 weights with bfloat16 matrix products"
    )
    zero_stage: Literal[0, 1] = Field(
        default=1, description="DeepSpeed ZeRO: 0 = none, 1 = optimizer state split over two workers or more"
    )
    pipeline_stages: Literal[1] = Field(
        default=1, description="pipeline depth; 1 = data parallel only, the one mode so far"
    )
    tensor_parallel: Literal[1] = Field(
        default=1, description="ways a layer is split; 1 = not at all, the one mode so far"
    )
    tokens_per_batch: int = Field(default=512, ge=1, description="tokens in a global batch, padding included")
    accumulation: int = Field(default=1, ge=1, description="micro-batches that make one global batch on each worker")
    gradient_clipping: float = Field(
        default=1.0, ge=0, description="largest global L2 norm of the gradient; 0 = no limit"
    )
    max_failures: int = Field(default=3, ge=0, description="restarts after a worker died, from the last checkpoint")


class TrackingSpec(Spec):
    """Where runs are recorded; the server's address comes from MLFLOW_TRACKING_URI."""

    experiment: str = Field(default="slimcart", min_length=1, description="MLflow experiment")
