"""An edge device: a virtual environment with the extra `edge` alone answers from a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny.bundles import LABELS, write_tiny_bundle

pytestmark = pytest.mark.parallel  # pip downloads and installs: half a minute

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 250
ABSENT = ("ray", "torch", "transformers", "deepspeed", "mlflow", "fastapi", "openvino", "ctranslate2")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{ROOT}[edge]"], check=True, timeout=600)
    return folder


def test_the_extra_edge_is_small_and_holds_no_cluster(device: Path):
    packages = next((device / "venv/lib").glob("python3*")) / "site-packages"
    assert not [name for name in ABSENT if (packages / name).exists()]
    ours = [path for path in packages.rglob("*") if path.is_file() and path.relative_to(packages).parts[0] != "pip"]
    assert sum(path.stat().st_size for path in ours) < MEGABYTES * 1e6


def test_a_device_answers_lines_from_a_bundle(device: Path):
    write_tiny_bundle(device / "bundle")
    command = [str(device / "venv/bin/python"), "-m", "serving.runtime", str(device / "bundle")]
    done = subprocess.run(command, input=b"refund\n", capture_output=True, cwd=device, check=True, timeout=60)
    assert json.loads(done.stdout)["label"] in LABELS


def test_a_bundle_of_another_runtime_is_refused_with_the_extra_that_it_needs(device: Path):
    write_tiny_bundle(device / "ir", runtime="openvino")
    command = [str(device / "venv/bin/python"), "-m", "serving.runtime", str(device / "ir")]
    done = subprocess.run(command, input=b"", capture_output=True, cwd=device, check=False, timeout=60)
    assert done.returncode == 2
    assert b"runtime 'openvino' is not installed here; install slimcart with its extra 'runtimes'" in done.stderr
