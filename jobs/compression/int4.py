"""Weights of decoders in 4 bits, activations in float: rounded in groups of inputs that share a scale."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from cluster.session import JobError
from serving.runtimes.int4 import CODES, SCALES, Array, read

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # share of a group's largest weight that its codes may reach to
LARGEST = 7  # largest code; the smallest is -8


def put(file: Path, matrices: Collection[str], group: int) -> None:
    """Rewrite model.bin with the named matrices in 4 bits, in groups of `group` inputs or the most that fit.

    Raises `JobError` where a matrix has an odd number of inputs.
    """
    stored = read(file)
    arrays: dict[str, Array] = {}
    for name, array in stored.arrays.items():
        if name in matrices:
            inputs = array.values.shape[1]
            if inputs % 2:
                raise JobError(f"int4: {name} has {inputs} inputs, and two weights share a byte; use 8 bits")
            codes, scales = pack(array.floats, fitting(group, inputs))
            arrays[name + CODES] = Array.of("int8", codes)
            arrays[name + SCALES] = Array.of("float16", scales)
        else:
            arrays[name] = array
    aside = file.with_suffix(".partial")
    aside.write_bytes(stored._replace(arrays=arrays).content())
    aside.replace(file)


def fitting(group: int, inputs: int) -> int:
    """The largest even divisor of the even number `inputs` that is no larger than `group`."""
    return max(each for each in range(2, group + 1, 2) if inputs % each == 0)


def pack(weights_RC: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [R, C / 2] and scales float16 [R, C / group] of float weights; see `serving.runtimes.int4.unpack`.

    The scale of a group is that of the `CLIPS` with the least squared error. `group` is even and divides C.
    """
    groups_RGN = weights_RC.reshape(len(weights_RC), -1, group).astype(np.float32)
    largest_RG = np.abs(groups_RGN).max(2)
    best_RG = np.full(largest_RG.shape, np.inf, np.float32)
    codes_RGN, scales_RG = np.zeros(groups_RGN.shape, np.int8), np.ones(largest_RG.shape, np.float16)
    for clip in CLIPS:
        tried_RG = (clip / LARGEST * largest_RG).clip(np.finfo(np.float16).smallest_subnormal, np.finfo(np.float16).max)
        tried_RG = tried_RG.astype(np.float16)
        steps_RG1 = tried_RG[..., None].astype(np.float32)
        rounded_RGN = np.rint(groups_RGN / steps_RG1).clip(-LARGEST - 1, LARGEST)
        error_RG = np.square(rounded_RGN * steps_RG1 - groups_RGN).sum(2)
        better_RG = error_RG < best_RG
        best_RG[better_RG], scales_RG[better_RG] = error_RG[better_RG], tried_RG[better_RG]
        codes_RGN[better_RG] = rounded_RGN[better_RG].astype(np.int8)
    shifted_RC = (codes_RGN + 8).astype(np.uint8).reshape(len(weights_RC), -1)
    return (shifted_RC[:, ::2] | shifted_RC[:, 1::2] << 4).view(np.int8), scales_RG
