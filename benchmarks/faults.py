"""What customers get while parts of a service end, change, or have too much to do. Over HTTP; takes minutes.

    python -m benchmarks.faults [killed] [parts] [changed] [overload] [slow] [--minutes M]

A service of two replicas on a cluster of its own answers lists of eight texts, which a client of `benchmarks._load`
asks at an even rate. A row's ratio is the share of its requests that were answered, or what its unit says; each has a
negative control beside it, the same without what is to protect, which has no bar.

killed: one replica is killed every 30 s at 60 % of the load that the service bears, and the client asks once more where
it got no answer. parts: Serve's controller is killed, then HAProxy. changed: new versions in the same replicas, then
new replicas. overload: four times the load that the service bears. slow: 200 clients that send a byte a second, before
the edge of `cluster/edge`, in Debian's HAProxy.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks._bare import SERVICE
from benchmarks._compare import exit_code, missing, print_row
from benchmarks._load import OK, Load, Question, asking, load
from benchmarks._servers import Deployed, deployed
from benchmarks._untrained import untrained
from cluster import session
from cluster.ports import choose_port, is_free
from configs.schema.models import StudentSpec

TEXT = "My parcel was due on Monday and it is still not here, although the tracking page says that it was delivered"
INPUTS = [TEXT] * 8
EVERY_S = 30.0  # between two kills
BORNE, TOO_MUCH = 0.6, 4.0  # of the load that the service bears
ALLOWED = {"200", "429", "503"}  # where there is too much to do
REFUSED_MS, GOOD, GROWTH = 200.0, 0.8, 1.1
SLOW, SLOWER = 200, 2.0
OTHER = "127.0.0.2"  # address of the slow clients
TWO: dict[str, Any] = {"replicas": 2}
FEW: dict[str, Any] = {**TWO, "max_ongoing_requests": 32, "max_queued_requests": 32}
ANY: dict[str, Any] = {**TWO, "max_ongoing_requests": 100_000, "max_queued_requests": 100_000}
EDGE = Path(__file__).resolve().parent.parent / "cluster" / "edge" / "haproxy.cfg"
HAPROXY = "/usr/sbin/haproxy"


class Bench:
    """The service that is asked, and what it bears."""

    def __init__(self, service: Deployed, minutes: float) -> None:
        self._service, self.minutes = service, minutes
        self.capacity = 0.0  # requests a second

    def deploy(self, version: str = "1", **serving: Any) -> None:
        """See `Deployed.deploy`."""
        self._service.deploy(version, **serving)

    def remove(self) -> None:
        """See `Deployed.remove`."""
        self._service.remove()

    def measure(self) -> None:
        """How much the service bears: what it answers where more is asked than that."""
        self.capacity = max(self._answered_s(rate) for rate in (100, 200, 400))

    def _answered_s(self, rate: float) -> float:
        seconds = 5.0
        began = time.monotonic()
        good = load(self.question(rate, seconds)).good
        return good / max(seconds, time.monotonic() - began - 1.0)  # a second to start the client

    def question(self, rate: float, seconds: float, **also: Any) -> Question:
        """The service, asked at an even rate."""
        return Question(url=self._service.server.url, inputs=INPUTS, rate=rate, seconds=seconds, **also)

    def processes(self, name: str) -> list[psutil.Process]:
        """See `Deployed.processes`."""
        return self._service.processes(name)

    def replicas(self) -> list[psutil.Process]:
        """Those that hold the model."""
        return self.processes(f"ray::ServeReplica:{SERVICE}:")


def main(arguments: list[str]) -> int:
    """Measure all rows of the parts that are asked for."""
    known: dict[str, Callable[[Bench], None]] = {
        "killed": _killed,
        "parts": _parts,
        "changed": _changed,
        "overload": _overload,
        "slow": _slow,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="what customers get meanwhile")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--minutes", type=float, default=2, help="of each row in which replicas are killed (default 2)")
    options = parser.parse_args(arguments)
    if unknown := [each for each in options.parts if each not in known]:
        parser.error(f"{unknown[0]!r} is no part; parts: {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="slimcart-faults-") as scratch, contextlib.ExitStack() as running:
        place = Path(scratch)
        with contextlib.redirect_stdout(sys.stderr):
            bundle = untrained(place / "model", StudentSpec(layers=2), quantized=True)
            bench = Bench(running.enter_context(deployed(place / "cluster", bundle)), options.minutes)
            session.connect()  # as a job does, which tells replicas what to run
            running.callback(_leave)
            bench.deploy(**TWO)
            bench.measure()
        for name in options.parts or known:
            known[name](bench)
    return exit_code()


def _leave() -> None:
    import ray

    ray.shutdown()


def _told(name: str, found: Load, bar: float | None, **also: Any) -> None:
    """The row of a client all of whose requests are to be answered."""
    print_row(
        name=name,
        unit="share of the requests that were answered",
        ratio=found.good / found.requests,
        bar=bar,
        requests=found.requests,
        statuses=found.statuses,
        retried=found.retried,
        p99_ms=found.p99_ms,
        **also,
    )


def _killed(bench: Bench) -> None:
    for name, retries, bar in (("one retry", 1, 1.0), ("no retry", 0, None)):
        kills = 0
        with asking(bench.question(BORNE * bench.capacity, 60 * bench.minutes, retries=retries)) as client:
            while _wait(client.process, EVERY_S):
                victims = bench.replicas()
                victims[kills % len(victims)].kill()
                kills += 1
            found = client.result()
        _told(f"a replica is killed every {EVERY_S:g} s, {name}", found, bar, kills=kills)
        bench.deploy(**TWO)


def _wait(process: psutil.Popen, seconds: float) -> bool:
    """Whether it still runs after so long."""
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return True
    return False


def _parts(bench: Bench) -> None:
    for name, title in (("Serve's controller", "ray::ServeController"), ("HAProxy", "haproxy"), ("nothing", "")):
        with asking(bench.question(BORNE * bench.capacity, 45, retries=1)) as client:
            _wait(client.process, 10)
            killed = bench.processes(title) if title else []
            for each in killed:
                each.kill()
            found = client.result()
        _told(f"{name} is killed", found, None if title else 1.0, killed=len(killed))


def _changed(bench: Bench) -> None:
    def in_place() -> None:
        bench.deploy("2", **TWO)
        bench.deploy("1", **TWO)

    def new_replicas() -> None:
        bench.deploy("2", **TWO, batch_wait_ms=0.1)
        bench.deploy("1", **TWO)

    def without_old_ones() -> None:
        bench.remove()
        bench.deploy(**TWO)

    ways: tuple[tuple[str, Callable[[], None], float | None], ...] = (
        ("a new version and the old one again, in the same replicas", in_place, 1.0),
        ("a new version and the old one again, in new replicas", new_replicas, 1.0),
        ("the service is removed and deployed again", without_old_ones, None),
    )
    for name, change, bar in ways:
        with asking(bench.question(BORNE / 2 * bench.capacity, 600)) as client:
            _wait(client.process, 5)
            change()
            _wait(client.process, 5)
            found = client.stop()
        _told(name, found, bar)


def _overload(bench: Bench) -> None:
    for name, limits, judged in (("limits", FEW, True), ("no limits", ANY, False)):
        bench.deploy(**limits)
        load(bench.question(BORNE * bench.capacity, 5))
        before = sum(each.memory_info().rss for each in bench.replicas())
        rate, seconds = TOO_MUCH * bench.capacity, 60.0
        found = load(bench.question(rate, seconds))
        grown = sum(each.memory_info().rss for each in bench.replicas()) / before
        row = f"{TOO_MUCH:g} times the load that it bears, {name}"
        also = {"requests": found.requests, "statuses": found.statuses, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms}
        told = sum(count for status, count in found.statuses.items() if status in ALLOWED) / found.requests
        refusals = [found.p99_ms[status] for status in ALLOWED - {str(OK)} if status in found.p99_ms]
        figures = (
            ("share answered 200, 429 or 503", told, 1.0),
            ("good requests / what it bears", found.good / seconds / bench.capacity, GOOD),
            (f"{REFUSED_MS:g} ms / p99 of refusals", REFUSED_MS / max(refusals, default=float("inf")), 1.0),
            (f"{GROWTH:g} / memory after it, of that before", GROWTH / grown, 1.0),
        )
        for unit, ratio, bar in figures:
            print_row(name=f"{row}: {unit}", unit=unit, ratio=ratio, bar=bar if judged else None, **also)
    bench.deploy(**TWO)


def _slow(bench: Bench) -> None:
    row, unit = f"{SLOW} slow clients before the edge", "p99 without them / with them"
    if not Path(HAPROXY).exists() or shutil.which("openssl") is None:
        missing(row, unit, "HAProxy or openssl is not installed; on Debian: apt-get install haproxy", 1 / SLOWER)
        return
    upstream = bench.question(1, 1).url.removeprefix("http://").partition("/")[0]
    for name, limited, bar in (("", True, 1 / SLOWER), (", which may take as long as they like", False, None)):
        with tempfile.TemporaryDirectory() as scratch, _edge(Path(scratch), upstream, limited) as (port, certificate):
            url = f"https://localhost:{port}/v1/{SERVICE}"
            question = bench.question(BORNE / 2 * bench.capacity, 20, certificate=str(certificate))
            question = question.model_copy(update={"url": url})
            alone = load(question)
            with _slow_clients(port):
                beside = load(question)
        both = [each.p99_ms.get(str(OK), float("inf")) for each in (alone, beside)]
        print_row(
            name=row + name,
            unit=unit,
            ratio=both[0] / both[1],
            bar=bar,
            p99_ms=[each if math.isfinite(each) else None for each in both],
            statuses=[alone.statuses, beside.statuses],
        )


@contextlib.contextmanager
def _edge(folder: Path, upstream: str, limited: bool) -> Iterator[tuple[int, Path]]:
    """The edge with room for as many clients as are slow; port and certificate."""
    certificate, port = _certificate(folder), choose_port("the edge", 9850)
    told = EDGE.read_text(encoding="utf-8").replace("maxconn 2000", f"maxconn {SLOW}")
    if not limited:
        told = told.replace("timeout http-request 10s", "timeout http-request 10m")
    (folder / "haproxy.cfg").write_text(told, encoding="utf-8")
    given = {"EDGE_BIND": f"127.0.0.1:{port}", "EDGE_CERTIFICATE": str(folder / "edge.pem"), "EDGE_UPSTREAM": upstream}
    most = {"EDGE_REQUESTS": "1000000"} | ({} if limited else {"EDGE_CONNECTIONS": "1000000"})
    environment = {**os.environ, **given, **most}
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(folder / "haproxy.cfg")], env=environment)
    try:
        while is_free(port):
            if process.poll() is not None:
                raise RuntimeError("the edge did not start")
            time.sleep(0.1)
        yield port, certificate
    finally:
        process.terminate()
        process.wait()


def _certificate(folder: Path) -> Path:
    """Of localhost, with its key beside it in edge.pem."""
    made = folder / "crt.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key.pem"), "-out", str(made)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    (folder / "edge.pem").write_bytes(made.read_bytes() + (folder / "key.pem").read_bytes())
    return made


@contextlib.contextmanager
def _slow_clients(port: int) -> Iterator[None]:
    """Clients of another address that send a byte of a request a second, and come again when they are sent away."""
    over = threading.Event()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def slow() -> None:
        head = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + b" " * 600
        while not over.wait(0.2):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5, (OTHER, 0)) as plain,
                context.wrap_socket(plain) as client,
            ):
                for byte in head:
                    client.send(bytes([byte]))
                    if over.wait(1):
                        return

    clients = [threading.Thread(target=slow, daemon=True) for _ in range(SLOW)]
    for each in clients:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in clients:
            each.join()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
