"""What a file can be exported for: which runtime, and which precision of what is not int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from configs.schema.compression import ExportSpec, Step

RUNTIMES = {"classify": ("onnxruntime", "openvino"), "generate": ("ctranslate2",)}  # by task, the usual one first
PRECISIONS = {"onnxruntime": ("f32",), "openvino": ("f32", "bf16", "f16"), "ctranslate2": ("f32", "bf16")}
TRIED = {"onnxruntime": ("f32",), "openvino": ("f32", "bf16"), "ctranslate2": ("f32",)}  # by runtime auto


class Form(NamedTuple):
    """What a file is exported for."""

    runtime: str
    precision: str


def forms(export: ExportSpec, task: str, steps: Sequence[Step]) -> list[Form]:
    """The forms that the file may take; more than one with `auto`. Raises `ValueError` that says why there is none."""
    able, auto = RUNTIMES[task], export.runtime == "auto"
    if not auto and export.runtime not in (None, *able):
        raise ValueError(f"export.runtime: {export.runtime!r}: does not run task {task!r}; use {' or '.join(able)}")
    runtimes = able if auto else (export.runtime or able[0],)
    reasons = {runtime: _reason_against(runtime, steps) for runtime in runtimes}
    possible = [runtime for runtime in runtimes if reasons[runtime] is None]
    if not possible:
        raise ValueError(reasons[runtimes[0]])
    asked = TRIED if auto and export.precision is None else dict.fromkeys(runtimes, (export.precision or "f32",))
    found = [Form(runtime, each) for runtime in possible for each in asked[runtime] if each in PRECISIONS[runtime]]
    if not found:
        can = ", ".join(f"{runtime} computes in {' or '.join(PRECISIONS[runtime])}" for runtime in possible)
        raise ValueError(f"export.precision: {export.precision!r}: {can}")
    return found


def _reason_against(runtime: str, steps: Sequence[Step]) -> str | None:
    """Why the steps after export cannot work on files of a runtime."""
    for index, step in enumerate(steps):
        if not step.after_export:
            continue
        if runtime not in step.runtimes:
            able = " or ".join(step.runtimes)
            return f"compression[{index}]: {step.step!r} works on files of {able}, not of {runtime}; leave one out"
        for field in step.runtimes[runtime]:
            if (value := getattr(step, field)) != type(step).model_fields[field].default:
                return f"compression[{index}].{field}: {value!r}: means nothing to {runtime}; leave it out"
    return None
