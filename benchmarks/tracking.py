"""What a training that tells MLflow of every step loses while MLflow is away, fails or hangs.

    python -m benchmarks.tracking

One process on one core: steps of a small transformer, after each of which its loss is logged, with the outbox, its
thread and its file on disk, in turns with the same steps of which nobody is told. The figure is steps per second. In
the last row a real MLflow server answers, from whatever core is free.
"""

from __future__ import annotations

import functools
import http.server
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from benchmarks._compare import compare, exit_code, seconds
from benchmarks._process import one_thread
from cluster import servers
from cluster.client import client
from cluster.delivery import LOCAL
from cluster.outbox import Outbox
from cluster.ports import LOOPBACK, choose_port, choose_ports
from cluster.processes import end
from cluster.record import Cluster, private_folder

STEPS = 150
BAR = 0.95
ROWS, TOKENS, WIDTH = 16, 32, 128


class Training:
    """A model under training; each call takes `STEPS` steps and returns how many it takes in a second."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch_BLD = torch.randn(ROWS, TOKENS, WIDTH)

    def steps(self, told: Outbox | None = None) -> None:
        """`STEPS` of them; the loss after each is logged."""
        for number in range(STEPS):
            loss = self.step()
            if told:
                told.log({"loss": loss}, number)

    def step(self) -> float:
        """One optimizer step; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.model(self.batch_BLD).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def untold(self) -> float:
        """Nobody is told."""
        return STEPS / seconds(self.steps)

    def told(self, server: str, answers: bool, folder: Path) -> float:
        """Of every step `server` is told, or is to be."""
        os.environ["MLFLOW_TRACKING_URI"] = server
        outbox = Outbox(client().create_run("0").info.run_id if answers else f"{LOCAL}benchmark", folder)
        taken = seconds(lambda: self.steps(outbox))
        outbox.discard()
        return STEPS / taken


class Failing(http.server.BaseHTTPRequestHandler):
    """A server in trouble."""

    def do_GET(self) -> None:
        """Answer 500."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *given: object) -> None:  # noqa: A002 - its base's name
        """Nothing."""


@contextmanager
def refusing() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        yield f"http://{LOOPBACK}:{held.getsockname()[1]}"


@contextmanager
def hanging() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        held.listen(1000)
        yield f"http://{LOOPBACK}:{held.getsockname()[1]}"


@contextmanager
def failing() -> Iterator[str]:
    """A server that answers 500, in a process of its own."""
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Failing)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    server.server_close()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        process.kill()
        process.join()


@contextmanager
def answering(folder: Path) -> Iterator[str]:
    """MLflow."""
    private_folder(folder)
    ports = choose_ports(choose_port("the Ray dashboard", 8800), choose_port("MLflow", 9300))
    cluster = Cluster(state=folder, home=folder, temp=folder, ports=ports)
    part = servers.start("mlflow", cluster)
    try:
        servers.wait_until_ready(cluster.model_copy(update={"mlflow": part}))
        yield cluster.mlflow_url
    finally:
        end([part])


def main() -> int:
    """All rows."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("cluster").setLevel(logging.ERROR)  # that MLflow does not answer is what is measured
    everywhere = os.sched_getaffinity(0)
    one_thread("benchmarks.tracking")
    alone = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as place, ExitStack() as started:
        os.sched_setaffinity(0, everywhere)  # what answers is elsewhere
        starts = {"not there": refusing(), "answering 500": failing(), "hanging": hanging()}
        addresses = {name: started.enter_context(start) for name, start in starts.items()}
        addresses["answering"] = started.enter_context(answering(Path(place, "mlflow")))
        os.sched_setaffinity(0, alone)
        training = Training()
        for name, address in addresses.items():
            compare(
                f"tracking: MLflow {name}",
                "steps/s, each step logged",
                functools.partial(training.told, address, name == "answering", Path(place, "output")),
                training.untold,
                f"the same steps without tracking, torch {torch.__version__}",
                BAR,
            )
    return exit_code()


if __name__ == "__main__":
    sys.exit(main())
