"""wrk, the client of benchmarks: so many connections that ask again as soon as they are answered, from one core."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks._servers import Server

MISSING = "wrk is not installed; on Debian and Ubuntu: apt-get install wrk"
CORE = max(os.sched_getaffinity(0))  # of the client
LATENCIES = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # units of wrk in ms


class Asked(NamedTuple):
    """A turn of one server."""

    requests_s: float  # that were answered
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of all processes of the server, for one request


def script(file: Path, inputs: Sequence[str]) -> Path:
    """What wrk asks, written to `file`."""
    body = json.dumps({"inputs": list(inputs)})
    lines = (
        'wrk.method = "POST"',
        'wrk.headers["Content-Type"] = "application/json"',
        f"wrk.body = [==[{body}]==]",
    )
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def asked(question: Path, server: Server, clients: int, seconds: int) -> Callable[[], Asked]:
    """A turn of so many clients. Raises `RuntimeError` where one of them gets no answer."""
    command = ["taskset", "-c", str(CORE), "wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds}s"]

    def turn() -> Asked:
        running = server.processes()
        before = _cpu_s(running)
        with server.awake():
            done = subprocess.run(
                [*command, "--latency", f"--script={question}", server.url], capture_output=True, text=True, check=True
            )
        used = _cpu_s(running) - before
        if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise RuntimeError(f"{server.url}: not all were answered\n{done.stdout}")
        requests = float(_found(r"(\d+) requests in", done.stdout))
        rate = float(_found(r"Requests/sec: +([\d.]+)", done.stdout))
        return Asked(rate, _ms("50", done.stdout), _ms("99", done.stdout), 1e3 * used / requests)

    return turn


def _cpu_s(running: Sequence[psutil.Process]) -> float:
    """What processes have used; one that has ended meanwhile counts for nothing."""
    total = 0.0
    for process in running:
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def _ms(quantile: str, said: str) -> float:
    latency = _found(rf"{quantile}% +([\d.]+(?:us|ms|s))\b", said)
    number = latency.rstrip("mus")
    return float(number) * LATENCIES[latency.removeprefix(number)]


def _found(pattern: str, said: str) -> str:
    found = re.search(pattern, said)
    if not found:
        raise RuntimeError(f"wrk says nothing of {pattern}\n{said}")
    return found[1]
