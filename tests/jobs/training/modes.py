"""What is trained, and how: runs by name, each with its overrides."""

from __future__ import annotations

from typing import Any

CALM = ["teacher.dropout=0", "engine.precision=fp32"]
FP32 = ["engine.precision=fp32"]
OWN = [*FP32, "distillation.on_policy=0.1"]
FP16 = ["engine.precision=fp16", "engine.loss_scale.initial_power=8"]  # a higher one leaves out some of the few steps
INSIDE = [  # relations first, then all that can be compared
    "distillation.stages=[{epochs: 1, weights: {relations: 1}}]",
    "distillation.final_temperature=2",
    "distillation.relation_heads=4",
    *(f"distillation.weights.{name}=1" for name in ("hidden", "cosine", "relations")),
]
OFTEN = ["engine.max_failures=1", "engine.checkpoint_seconds=1e-9"]  # a checkpoint after every step
INTERRUPTED_AT = 4  # step of the second epoch, where "interrupted" is in a name
FURTHER: dict[str, dict[str, Any]] = {  # students of which half the weights are zero, and what holds while they go on
    "pruned student": {"keep_zeros": True},
    "pruned student, forgotten": {"keep_zeros": False},
    "pruned student, rising": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rising, bf16 weights": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rising, interrupted": {"sparsity": 0.8, "rising": 0.6},
    "pruned student, rounded": {"quantize_aware": True},
}
# A name starts with what is trained: "encoder" and "decoder" are teachers; what is "adapted" learns by adapters.
ONE_WORKER = {
    "encoder": CALM,
    "encoder, accumulated": [*CALM, "engine.accumulation=2"],
    "encoder, bf16": ["teacher.dropout=0", "engine.precision=bf16_autocast"],
    "encoder, worse at last": CALM,
    "encoder, crash before a checkpoint": [*CALM, "engine.max_failures=1"],
    "encoder, never killed": ["engine.max_failures=1"],
    "encoder, interrupted": [*CALM, *OFTEN],
    "encoder, interrupted, checkpoints by epoch": [*CALM, "engine.max_failures=1"],
    "encoder, interrupted, drops out": OFTEN,
    "encoder, interrupted, drops out otherwise": OFTEN,
    "student": CALM,
    "student inside": [*CALM, *INSIDE],
    **dict.fromkeys(FURTHER, CALM),
    "pruned student, rising, interrupted": [*CALM, *OFTEN],
    "pruned student, rising, bf16 weights": ["engine.precision=bf16"],
    "conv student": FP32,
    "foreign student": FP32,
    "decoder": FP32,
    "decoder student": FP32,
    "decoder student writes": OWN,
    "decoder student writes, interrupted": [*OWN, *OFTEN],
    "decoder adapted": FP32,
    "decoder adapted, activations computed twice": [*FP32, "engine.activation_checkpointing=true"],
    "decoder adapted, bf16 weights": ["engine.precision=bf16"],
    "decoder adapted, interrupted": [*FP32, *OFTEN],
    "decoder student adapted": FP32,
    "encoder adapted": CALM,
    "encoder, bf16 weights": ["teacher.dropout=0", "engine.precision=bf16"],
    "encoder, fp16 weights": ["teacher.dropout=0", *FP16],
    "encoder, activations computed twice": [*CALM, "engine.activation_checkpointing=true"],
    "encoder, offloaded": [*CALM, "engine.zero_stage=3", "engine.offload=all"],
}
GPU = ["engine.use_gpu=true"]
ON_A_GPU = {  # each with how far its losses may be from those of one worker on a CPU in fp32
    "encoder, gpu": ([*CALM, *GPU], 1e-3),
    "encoder, gpu, balanced": ([*CALM, *GPU, "teacher.class_weights=balanced", "teacher.label_smoothing=0.1"], None),
    "encoder, gpu, offloaded": ([*CALM, *GPU, "engine.zero_stage=3", "engine.offload=all"], 1e-3),
    "encoder, gpu, bf16 autocast": (["teacher.dropout=0", *GPU, "engine.precision=bf16_autocast"], 0.05),
    "encoder, gpu, bf16": (["teacher.dropout=0", *GPU, "engine.precision=bf16"], 0.05),
    "encoder, gpu, fp16": (["teacher.dropout=0", *GPU, *FP16], 0.05),
    "student, gpu": ([*CALM, *GPU], 1e-3),
    "student, gpu, fp16": (["teacher.dropout=0", *GPU, *FP16], 0.05),
    "student inside, gpu": ([*CALM, *INSIDE, *GPU], 1e-3),
    "pruned student, rising, gpu": ([*CALM, *GPU], 0.05),  # where a weight is as small as another, others are zeroed
    "conv student, gpu": (["engine.precision=bf16_autocast", *GPU], 0.05),
    "decoder, gpu": ([*FP32, *GPU], 1e-3),
    "decoder, gpu, fp16": ([*GPU, *FP16], 0.05),
    "decoder student, gpu": ([*FP32, *GPU], 1e-3),
}
PIPELINE = ["engine.pipeline_stages=2", "engine.accumulation=2"]
TENSOR = ["engine.tensor_parallel=2"]
PAIR = ["engine.workers=2"]
TWO_WORKERS = {  # one for each mechanism; the two-worker modes of test_engine beside it
    **{f"encoder, zero {stage}": [*CALM, *PAIR, f"engine.zero_stage={stage}"] for stage in (2, 3)},
    "pruned student, rising": [*CALM, *PAIR, "engine.zero_stage=2"],
    "decoder student writes, zero 2": [*OWN, *PAIR, "engine.zero_stage=2"],
    "decoder adapted, zero 2": [*FP32, *PAIR, "engine.zero_stage=2"],
    "encoder adapted, zero 3": [*CALM, *PAIR, "engine.zero_stage=3"],
    "conv student": [*FP32, *PAIR],
    "student, pipeline": [*CALM, *PAIR, *PIPELINE],
    "decoder, pipeline": [*FP32, *PAIR, *PIPELINE],
    "decoder, tensor": [*FP32, *PAIR, *TENSOR],  # last: what DeepSpeed keeps of it no other mode can use
}
TWO_WORKERS_MORE = {  # in the order of `FOUR_WORKERS`
    **{f"encoder, zero {stage}": [*CALM, *PAIR, f"engine.zero_stage={stage}"] for stage in (0, 1)},
    "decoder, zero 3": [*FP32, *PAIR, "engine.zero_stage=3"],
    "encoder, zero 2 interrupted": [*CALM, *PAIR, *OFTEN, "engine.zero_stage=2"],
    "decoder adapted, zero 3": [*FP32, *PAIR, "engine.zero_stage=3"],
    "decoder adapted, zero 2 interrupted": [*FP32, *PAIR, *OFTEN, "engine.zero_stage=2"],
    "decoder adapted, zero 3 interrupted": [*FP32, *PAIR, *OFTEN, "engine.zero_stage=3"],
    "student inside, zero 3": [*CALM, *INSIDE, *PAIR, "engine.zero_stage=3", "engine.accumulation=2"],
    "encoder, pipeline": [*CALM, *PAIR, "engine.pipeline_stages=2", "engine.accumulation=4"],
    "encoder, pipeline interrupted": [*CALM, *PAIR, *OFTEN, *PIPELINE],
    "decoder student, pipeline": [*FP32, *PAIR, *PIPELINE],
    "encoder, tensor": [*CALM, *PAIR, *TENSOR],
    "decoder student, tensor": [*FP32, *PAIR, *TENSOR],
}
FOUR = ["engine.workers=4"]
FOUR_WORKERS = {  # whole models, then pipelines, then split layers: in one process DeepSpeed keeps some of it
    "encoder, zero 3 accumulated": [*CALM, *FOUR, "engine.zero_stage=3", "engine.accumulation=2"],
    "student, zero 3": [*CALM, *FOUR, "engine.zero_stage=3"],
    **{f"decoder, zero {stage}": [*FP32, *FOUR, f"engine.zero_stage={stage}"] for stage in range(4)},
    "decoder student, zero 3": [*FP32, *FOUR, "engine.zero_stage=3", "engine.accumulation=2"],
    "encoder, pipeline, activations computed twice": [
        *(*CALM, *FOUR, "engine.pipeline_stages=2", "engine.activation_checkpointing=true")
    ],
    "encoder, pipeline": [*CALM, *FOUR, *PIPELINE],
    "student, pipeline": [*CALM, *FOUR, *PIPELINE],
    "encoder, four stages": [*CALM, *FOUR, "engine.pipeline_stages=4", "engine.accumulation=4"],
    "decoder, pipeline": [*FP32, *FOUR, *PIPELINE],
    "decoder student, pipeline": [*FP32, *FOUR, *PIPELINE],
    "encoder, tensor": [*CALM, *FOUR, *TENSOR, "engine.zero_stage=1"],
    "student, tensor": [*CALM, *FOUR, *TENSOR, "engine.zero_stage=1"],
    "decoder, tensor": [*FP32, *FOUR, *TENSOR],
    "decoder student, tensor": [*FP32, *FOUR, *TENSOR],
}
