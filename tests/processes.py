"""Commands in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from cluster.ports import is_free
from cluster.servers import FOREIGN_RAY

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = (*FOREIGN_RAY, "RAY_AUTH_TOKEN_PATH", "SLIMCART_HOME", "SLIMCART_STATE", "MLFLOW_TRACKING_URI")


class Done(NamedTuple):
    """How a command ended; `result` is what its result.json held then, of which the RESULT line says the headlines."""

    code: int
    output: str
    result: dict[str, Any] | None


def submit(
    environment: Mapping[str, str], module: str, *arguments: str, folder: Path = ROOT, timeout: float = 300
) -> Done:
    """`ray job submit --working-dir <folder> -- python -m <module> ...`, until it ends.

    Ray answers 1 for every job that failed, whatever its own exit code.
    """
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--working-dir", str(folder), "--", "python", "-m", module, *arguments]
    return run(command, environment, folder, timeout)


def run(command: list[str], environment: Mapping[str, str], folder: Path = ROOT, timeout: float = 60) -> Done:
    """A command in `folder`, standard output and error together."""
    done = subprocess.run(
        command,
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return Done(done.returncode, done.stdout, _whole(json.loads(results[-1])) if results else None)


def _whole(line: dict[str, Any]) -> dict[str, Any]:
    """The result that a RESULT line is the short form of."""
    found = json.loads(Path(line["output"], "result.json").read_text(encoding="utf-8"))
    assert {**line, "metrics": 0} == {**found, "metrics": 0}
    assert 0 < len(line["metrics"]) <= 12 or not found["metrics"]
    assert line["metrics"].items() <= found["metrics"].items()
    return found


def named(name: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes of that name; one that ends meanwhile has none."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() == name:
                found.append(each)
    return found


def free_port(start: int) -> int:
    """A port outside Ray's worker range, and outside the kernel's ephemeral ports, which anyone may get meanwhile.

    Test processes that run side by side look in other places, as a server takes its port a while later.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return next(port for port in range(start + 20 * process, 10000) if is_free(port))
