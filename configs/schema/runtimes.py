"""The runtimes, one record each, and the choice of a target for a recipe's file.

A new runtime is a file in `serving/runtimes/`, what exports for it in `jobs/compression/export/`, and a record here;
docs/extending.md shows one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from configs.schema.tasks import TASKS

if TYPE_CHECKING:  # a device that only answers lacks what the section `compression` imports
    from configs.schema.compression import ExportSpec, Step

VOCABULARY = "vocabulary.json"  # of runtimes that need one beside the tokenizer
SHOWN = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "slimcart_conv")  # through ONNX


class FileStep(NamedTuple):
    """How a step after export works on the files of a runtime."""

    function: str  # (file, spec, new file, step context)
    ignored: tuple[str, ...] = ()  # fields that mean nothing to it


@dataclass(frozen=True)
class Runtime:
    """How files of a runtime are opened, exported, quantised and counted; functions are named "module:name"."""

    model: str  # usual name of its file in a bundle
    open: str | None = None  # (folder, bundle, threads) -> a model of `serving.runtimes`; None: it is not served
    precisions: tuple[str, ...] = ()  # of what is not int8; none: no file is exported for the runtime
    tried: tuple[str, ...] = ()  # precisions that runtime auto tries
    suffix: str = ""  # of an exported file, and of no other runtime's; none: the export is a folder
    beside: tuple[str, ...] = ()  # files that the model needs beside it to be opened
    export: str | None = None  # (model, new file, step context)
    try_export: str | None = None  # (config) raises where no model of that config can be exported
    exported: tuple[str, ...] = ()  # model types whose export tests show, which need not be tried
    open_file: str | None = None  # (file, precision, threads) -> a callable that gives logits
    computes: str | None = None  # (precision) -> whether this CPU has the instructions; None: any has
    steps: Mapping[str, FileStep] = field(default_factory=dict)  # after export
    count: str | None = None  # (file, inputs, tokens) -> FLOP of one row
    reads_tokens: bool = True
    needs: str | None = None  # package that a user installs; None: one of the runtime's name
    extra: str | None = None  # of slimcart, that installs it; None: slimcart needs it

    def files_beside(self, model: str) -> list[str]:
        """The names of `beside` for a model of this name."""
        file = PurePosixPath(model)
        return [str(file.with_name(each.format(stem=file.stem))) for each in self.beside]


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(
        model="model.onnx",
        open="serving.runtimes.onnxruntime:open_model",
        precisions=("f32",),
        tried=("f32",),
        suffix=".onnx",
        export="jobs.compression.export.onnx:export",
        try_export="jobs.compression.export.onnx:try_export",
        exported=SHOWN,
        open_file="serving.runtimes.onnxruntime:open_file",
        steps={
            "quantize": FileStep("jobs.compression.steps.quantize:quantize", ("bits", "group", "tokens")),
            "code": FileStep("jobs.compression.steps.codebook:code"),
        },
        count="jobs.measure.flops:of_graph",
    ),
    "openvino": Runtime(
        model="model.xml",
        open="serving.runtimes.openvino:open_model",
        extra="runtimes",
        precisions=("f32", "bf16", "f16"),
        tried=("f32", "bf16"),
        suffix=".xml",
        beside=("{stem}.bin",),
        export="jobs.compression.export.openvino:export",
        try_export="jobs.compression.export.openvino:try_export",
        exported=SHOWN,
        open_file="serving.runtimes.openvino:open_file",
        computes="serving.runtimes.openvino:computes",
        steps={
            "quantize": FileStep(
                "jobs.compression.export.openvino:quantize",
                ("bits", "group", "tokens", "per_channel", "reduce_range", "calibration"),
            )
        },
        count="jobs.measure.flops:of_openvino",
    ),
    "ctranslate2": Runtime(
        model="model.bin",
        open="serving.runtimes.ctranslate2:open_model",
        extra="runtimes",
        precisions=("f32", "bf16"),
        tried=("f32",),
        beside=("config.json", VOCABULARY),
        export="jobs.compression.export.ctranslate2:export",
        try_export="jobs.compression.export.ctranslate2:try_export",
        exported=("gpt2",),
        open_file="serving.runtimes.ctranslate2:open_file",
        computes="serving.runtimes.ctranslate2:computes",
        steps={
            "quantize": FileStep(
                "jobs.compression.export.ctranslate2:quantize",
                ("per_channel", "reduce_range", "calibration_rows", "calibration"),
            )
        },
    ),
    "linear": Runtime(
        model="model.npy",
        open="serving.runtimes.linear:open_model",
        beside=(VOCABULARY,),
        reads_tokens=False,
        needs="numpy",
    ),
    "torch": Runtime(model="model.safetensors", count="jobs.measure.flops:of_model"),
}

if TYPE_CHECKING:  # to a type checker any text
    RuntimeName = str
else:
    RuntimeName = Literal[*RUNTIMES]


def package(runtime: str) -> str:
    """What is imported for a runtime, and installed under the same name."""
    return RUNTIMES[runtime].needs or runtime


def how_to_install(runtime: str) -> str:
    """What a user does where the package of a runtime is missing."""
    record = RUNTIMES[runtime]
    return f"install slimcart with its extra {record.extra!r}" if record.extra else "install slimcart again"


class ExportTarget(NamedTuple):
    """The runtime and precision that a file is exported for."""

    runtime: str
    precision: str


def export_targets(export: ExportSpec, task: str, steps: Sequence[Step]) -> list[ExportTarget]:
    """The targets that a file may be exported for, several with `auto`. Raises `ValueError` where there is none."""
    able, auto = TASKS[task].runtimes, export.runtime == "auto"
    if not auto and export.runtime not in (None, *able):
        raise ValueError(f"export.runtime: {export.runtime!r}: does not run task {task!r}; use {' or '.join(able)}")
    runtimes = able if auto else (export.runtime or able[0],)
    reasons = {runtime: _reason_against(runtime, steps) for runtime in runtimes}
    possible = [runtime for runtime in runtimes if reasons[runtime] is None]
    if not possible:
        raise ValueError(reasons[runtimes[0]])
    targets = [
        ExportTarget(name, precision)
        for name in possible
        for precision in (RUNTIMES[name].tried if auto and export.precision is None else (export.precision or "f32",))
        if precision in RUNTIMES[name].precisions
    ]
    if not targets:
        can = ", ".join(f"{name} computes in {' or '.join(RUNTIMES[name].precisions)}" for name in possible)
        raise ValueError(f"export.precision: {export.precision!r}: {can}")
    return targets


def _reason_against(runtime: str, steps: Sequence[Step]) -> str | None:
    """Why the steps after export cannot work on files of a runtime."""
    able = {name: each.steps for name, each in RUNTIMES.items()}
    for index, step in enumerate(steps):
        if not step.after_export:
            continue
        if step.step not in able[runtime]:
            others = " or ".join(name for name, known in able.items() if step.step in known)
            return f"compression[{index}]: {step.step!r} works on files of {others}, not of {runtime}; leave one out"
        for name in able[runtime][step.step].ignored:
            if (value := getattr(step, name)) != type(step).model_fields[name].default:
                return f"compression[{index}].{name}: {value!r}: means nothing to {runtime}; leave it out"
    return None
