from __future__ import annotations

import time
from pathlib import Path

import pytest

from jobs.measure.resources import meter, method


def zone(folder: Path, name: str, title: str, microjoules: int) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "name").write_text(f"{title}\n")
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")
    (folder / name / "max_energy_range_uj").write_text("1000000\n")
    return folder / name / "energy_uj"


def test_counters_of_all_sockets_are_added_and_may_start_again_at_0(tmp_path: Path):
    first, second = (zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 900_000) for n in (0, 1))
    zone(tmp_path, "intel-rapl:0:0", "core", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 0)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    joules = meter(3.5, tmp_path)
    assert joules() == 0
    first.write_text("950000")
    second.write_text("100000")
    for other in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        (tmp_path / other / "energy_uj").write_text("777777")
    assert joules() == pytest.approx(0.05 + 0.2)
    assert joules() == pytest.approx(0.25)
    assert method(3.5, tmp_path).startswith("RAPL")


def test_without_counters_it_is_an_estimate_that_says_so(tmp_path: Path):
    assert method(10, tmp_path / "nowhere") == "estimate, not measured: CPU seconds x 10 W per busy core"
    joules = meter(10, tmp_path / "nowhere")
    before, started = joules(), time.process_time()
    while time.process_time() < started + 0.05:
        pass
    assert joules() - before == pytest.approx(0.5, rel=0.2)


def test_counters_that_only_root_may_read_are_none(tmp_path: Path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5).unlink()
    assert method(3.5, tmp_path).startswith("estimate")
