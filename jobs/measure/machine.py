"""The kind of machine that figures are measured on."""

from __future__ import annotations

import platform
from pathlib import Path


def machine_kind() -> dict[str, str]:
    """What a key holds of it. Bundles and teachers are measured on the CPU, so that it is the processor alone."""
    return {"cpu": cpu(), "architecture": platform.machine()}


def cpu() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
