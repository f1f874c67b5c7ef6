"""Serving: a deployed service against one bare uvicorn with the same model, and against Serve's defaults. Over HTTP.

    python -m benchmarks.serving [--bundle FOLDER]

Three servers answer side by side, each with one process of one thread that holds the model: a service of
`serving.deployment` as `jobs.deploy` leaves it (HAProxy, one replica); `benchmarks._bare`; and the same service on a
Serve without its settings. The client, wrk, keeps to the last core and asks them in turns, one text of 32 tokens a
request; the servers may use all cores, as two of them wait while one is asked. A row's figures are answers a second: by
the median latency of one client, which waits for each answer, and in all for 16 clients at once. Without --bundle the
model is a student of two of the packaged MiniLM's layers, in int8, not trained.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from benchmarks._bare import SERVICE
from benchmarks._compare import compare, exit_code, missing
from benchmarks._servers import service
from benchmarks.runtimes import prepared_of
from cluster.ports import choose_port, is_free
from configs.schema.data import EMBEDDED
from configs.schema.models import StudentSpec, TeacherSpec
from configs.schema.recipe import Recipe
from jobs.compression.bundle import compress
from jobs.measure.timing import texts_of_length
from jobs.models import encoder
from jobs.models.reference import write_reference
from jobs.models.student import encoder_student
from serving.bundle import read_bundle

OF_ONE, OF_MANY = 1 / 1.6, 0.9  # of bare uvicorn's: p50 of one client at most 1.6 times, answers to 16 at least 90 %
MANY = 16
TOKENS, LAYERS = 32, 2
SECONDS = 3  # of a turn
TEXT = "My parcel was due on Monday and it is still not here, although the tracking page says that it was delivered"
LATENCIES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}  # units of wrk
PATIENCE_S = 120.0


class Row(NamedTuple):
    """A figure, and what ours reaches of bare uvicorn's."""

    name: str
    unit: str
    clients: int
    bar: float


ROWS = (
    Row("one client", "answers/s at the median latency", 1, OF_ONE),
    Row(f"{MANY} clients", "answers/s", MANY, OF_MANY),
)


def main(arguments: list[str]) -> int:
    """Measure all rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="a service against bare uvicorn")
    parser.add_argument("--bundle", type=Path, help="folder of a classifier's bundle (default: a small one is made)")
    bundle = parser.parse_args(arguments).bundle
    if shutil.which("wrk") is None:
        for row in ROWS:
            missing(row.name, row.unit, "wrk is not installed; on Debian and Ubuntu: apt-get install wrk", row.bar)
        return exit_code()
    with tempfile.TemporaryDirectory(prefix="slimcart-serving-") as scratch:
        place = Path(scratch)
        with contextlib.redirect_stdout(sys.stderr):
            bundle = bundle or small_bundle(place / "small")
        measure(place, bundle)
    return exit_code()


def measure(place: Path, bundle: Path) -> None:
    """All rows; what is started ends before this returns."""
    script = place / "ask.lua"
    script.write_text(_script(bundle), encoding="utf-8")
    uvicorn = f"bare uvicorn {importlib.metadata.version('uvicorn')}"
    ray = f"Serve's defaults, ray {importlib.metadata.version('ray')}"
    with contextlib.ExitStack() as running:
        with contextlib.redirect_stdout(sys.stderr):  # which ports are taken is no row
            ours = running.enter_context(service(place / "ours", bundle))
            bare = running.enter_context(_bare(bundle))
            defaults = running.enter_context(service(place / "defaults", bundle, defaults=True))
        for row in ROWS:
            sides = [_asked(script, url, row.clients) for url in (ours, bare, defaults)]
            compare(f"{row.name}: our service / bare uvicorn", row.unit, sides[0], sides[1], uvicorn, row.bar)
            compare(f"{row.name}: our service / Serve's defaults", row.unit, sides[0], sides[2], ray, None, runs=3)


def small_bundle(place: Path) -> Path:
    """A classifier of two of the packaged MiniLM's layers, in int8; its head is not trained, its work is real."""
    recipe = Recipe.model_validate(
        {
            "name": SERVICE,
            "output": str(place),
            "data": {"train": EMBEDDED, "validation": EMBEDDED, "max_length": 64},
            "export": {"parity": 0},  # weights of the head are random: labels are near ties
            "compression": [{"step": "export"}, {"step": "quantize"}],
            "budget": {"min_retention": 0},
        }
    )
    rows = prepared_of(recipe)
    torch.manual_seed(0)
    teacher = encoder.pretrained(TeacherSpec(), rows.labels).eval()
    write_reference(
        place / "student", encoder_student(teacher, StudentSpec(layers=LAYERS)).eval(), rows, SERVICE, {}, {}
    )
    compress(recipe, place / "student", place / "bundle", {})
    return place / "bundle"


def _script(bundle: Path) -> str:
    """What wrk asks."""
    tokenizer = Tokenizer.from_file(str(bundle / read_bundle(bundle).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    (text,) = texts_of_length([TEXT], tokenizer, TOKENS, 1)
    body = json.dumps({"inputs": [text]})
    return f"""
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/json"
        wrk.body = [==[{body}]==]
    """


def _asked(script: Path, url: str, clients: int) -> Callable[[], float]:
    """A turn: answers a second, of one client by its median latency. Raises `RuntimeError` where one is no answer."""
    core = max(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(core), "wrk", "--threads=1", f"--connections={clients}", f"--duration={SECONDS}s"]

    def turn() -> float:
        done = subprocess.run(
            [*command, "--latency", f"--script={script}", url], capture_output=True, text=True, check=True
        )
        if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise RuntimeError(f"{url}: not all were answered\n{done.stdout}")
        if clients > 1:
            return float(_found(r"Requests/sec: +([\d.]+)", done.stdout))
        median = _found(r"50% +([\d.]+[mu]?s)\b", done.stdout)
        number = median.rstrip("mus")
        return 1 / (float(number) * LATENCIES[median.removeprefix(number)])

    return turn


def _found(pattern: str, said: str) -> str:
    found = re.search(pattern, said)
    if not found:
        raise RuntimeError(f"wrk says nothing of {pattern}\n{said}")
    return found[1]


@contextlib.contextmanager
def _bare(bundle: Path) -> Iterator[str]:
    """Its URL."""
    port = choose_port("bare uvicorn", 9800)
    command = [sys.executable, "-m", "benchmarks._bare", str(bundle), str(port)]
    process = subprocess.Popen(command, start_new_session=True)  # as a cluster is: Linux shares cores out by session
    try:
        until = time.monotonic() + PATIENCE_S
        while is_free(port):  # it listens last
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("bare uvicorn did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1/{SERVICE}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
