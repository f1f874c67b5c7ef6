"""The joules that a process takes, by the CPU's own counters or by an estimate that says so."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGE = re.compile(r"intel-rapl:\d+")  # the name on AMD too; `intel-rapl-mmio` counts the same joules again


def method(watts_per_core: float, powercap: Path = POWERCAP) -> str:
    """How `meter` takes energy on this machine, for the reader of its figures."""
    if _packages(powercap):
        return "RAPL counters of the whole CPU package, whatever runs on it"
    return f"estimate, not measured: CPU seconds x {watts_per_core:g} W per busy core"


def meter(watts_per_core: float, powercap: Path = POWERCAP) -> Callable[[], float]:
    """A reading of joules; the difference of two is what was used between them.

    The default of `evaluation.watts_per_core` is what a busy virtual core draws at AWS on average (3.5 W, Cloud Carbon
    Footprint, Methodology, "Compute").
    """
    if packages := _packages(powercap):
        return Counters(packages)
    return lambda: time.process_time() * watts_per_core


class Counters:
    """RAPL (Documentation/power/powercap in Linux): microjoules that start again at 0 when they reach their range."""

    def __init__(self, packages: list[Path]) -> None:
        self._ranges = {package: _number(package / "max_energy_range_uj") for package in packages}
        self._last = {package: _number(package / "energy_uj") for package in packages}
        self._microjoules = 0

    def __call__(self) -> float:
        """Joules since this was made."""
        for package, last in self._last.items():
            now = _number(package / "energy_uj")
            self._microjoules += (now - last) % self._ranges[package]
            self._last[package] = now
        return self._microjoules / 1e6


def _packages(powercap: Path) -> list[Path]:
    """One folder for each socket, if all their counters can be read."""
    try:
        zones = [path for path in sorted(powercap.iterdir()) if PACKAGE.fullmatch(path.name)]
        packages = [path for path in zones if (path / "name").read_text().startswith("package")]
        for path in packages:
            _number(path / "energy_uj")
    except OSError:  # no such folder, or root's alone
        return []
    return packages


def _number(path: Path) -> int:
    return int(path.read_text())
