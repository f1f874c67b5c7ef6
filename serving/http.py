"""Answer HTTP from bundles in one process without Ray: for edge devices and container platforms.

    python -m serving.http <bundle>... [--host 127.0.0.1] [--port 8000] [--keys FILE] [--open] [--threads N]

answers as a service that `jobs.deploy` has brought into service, at POST /v1/<service>, with the same catalogue, and in
the forms of Amazon SageMaker, Google Vertex AI (`serving.platforms`) and KServe (`serving.kserve`). GET /metrics tells
Prometheus what happens. A service has the name of its bundle's folder, or that of <name>=<bundle>. --keys asks every
client for an API key of the file, which `python -m serving.keys` makes. --host other than loopback needs it, or --open,
which says that whatever stands in front asks who a client is; given both, keys are asked for. --port 0 takes a free
one. AIP_HTTP_PORT, AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are obeyed. Further options are limits: --max-body-bytes,
--max-inputs, --max-tokens, --max-batch-size, --batch-wait-ms, --round-tokens, --max-waiting-texts,
--max-ongoing-requests, --request-timeout-s, --graceful-shutdown-timeout-s.

Health routes answer 503 until all bundles are loaded and have answered once. SIGTERM ends the process when the requests
that it has taken are answered. Exit 0 after that, 1 with one line where a bundle is refused or cannot be loaded or the
port is taken, 2 with one line where the command is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from configs import core_files
from configs.errors import KnownError
from configs.loader import COMMAND_LINE, UsageError, validate
from configs.schema.serving import ServingSpec, is_loopback, service_name
from serving.bundle import BundleError
from serving.keys import usable

if TYPE_CHECKING:
    import uvicorn

    from serving.services import Services

OPTIONS = {  # fields of `ServingSpec` that mean something here; in other words where those of the field do not fit
    "threads": "threads of one matrix product of each model",
    "max_batch_size": None,
    "batch_wait_ms": None,
    "max_tokens": None,
    "round_tokens": None,
    "max_waiting_texts": "texts that wait for a decoder; a request of more is answered 429",
    "max_ongoing_requests": "requests of a service at a time; more are answered 429",
    "request_timeout_s": None,
    "graceful_shutdown_timeout_s": "seconds in which requests may be finished after SIGTERM",
    "max_body_bytes": None,
    "max_inputs": None,
}
KEEP_ALIVE_S = 90  # as Serve: longer than the proxies in front keep an idle connection
BACKLOG = 2048

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    core_files.forbid()
    options = _parser().parse_args(arguments)
    try:
        _serve(options, os.environ)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (KnownError, BundleError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def services_of(given: Sequence[str]) -> dict[str, Path]:
    """Folders by the names of their services, out of `<bundle>` and `<name>=<bundle>`. Raises `UsageError`."""
    found: dict[str, Path] = {}
    for each in given:
        name, equals, folder = each.partition("=")
        path = Path(folder if equals else each)
        name = name if equals else path.resolve().name
        try:
            service_name(name)
        except ValueError as error:
            raise UsageError(f"{each}: {error}; <name>=<bundle> gives another") from None
        if name in found:
            raise UsageError(f"{each}: {found[name]} has the name {name!r} already; <name>=<bundle> gives another")
        found[name] = path
    return found


def check_host(host: str, is_open: bool, keys: Path | None = None) -> None:
    """Raise `UsageError` where strangers could ask and nobody would know who they are; the one place that decides it.

    So is a file of `keys` of which none is valid, wherever it listens.
    """
    if keys is not None:
        usable(keys, "--keys")
    elif not is_open and not is_loopback(host):
        raise UsageError(
            f"--host: {host!r} is not a loopback address, and nothing here asks who a client is; keep 127.0.0.1, give "
            "--keys, or say --open where what stands in front asks"
        )


def port_of(given: int | None, of_vertex: int | None) -> int:
    """The port to listen on. Raises `UsageError`."""
    if given is not None and not 0 <= given <= 65535:
        raise UsageError(f"--port: {given} is no TCP port; give 1 to 65535, or 0 for a free one")
    if given is not None and of_vertex not in (None, given):
        raise UsageError(f"--port: {given}, but AIP_HTTP_PORT is {of_vertex}; leave --port out")
    chosen = of_vertex if given is None else given
    return ServingSpec.model_fields["port"].default if chosen is None else chosen


def _serve(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Until SIGTERM. Raises `UsageError`, `BundleError` and `KnownError`."""
    limits = {name: said for name in OPTIONS if (said := getattr(options, name)) is not None}
    spec = validate(ServingSpec, limits, COMMAND_LINE)
    keys = Path(options.keys) if options.keys is not None else None
    check_host(options.host, options.open, keys)
    folders = services_of(options.bundle)
    try:
        import uvicorn

        from serving.access import Gate
        from serving.admission import Keys
        from serving.platforms import vertex_of
        from serving.prometheus import PrometheusExporter
        from serving.services import Services
        from serving.site import Site
    except ModuleNotFoundError as error:
        raise KnownError(f"{error.name} is not installed here; pip install '.[http]' brings it") from None
    vertex = vertex_of(environment, list(folders))
    port = port_of(options.port, vertex.port)
    exporter = PrometheusExporter()
    services = Services(folders, spec, exporter)
    site = Site(services, spec, vertex, exporter)
    asked = Keys(keys) if keys else None
    with _listening(options.host, port) as listening:
        config = uvicorn.Config(
            Gate(site, lambda: asked, site.service_of, site.is_open),
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(spec.graceful_shutdown_timeout_s),
        )
        server = uvicorn.Server(config)
        # uvicorn handles the signal while it serves, and raises it once more at its end.
        signal.signal(signal.SIGTERM, server.handle_exit)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_answer(server, services, listening))


async def _answer(server: uvicorn.Server, services: Services, listening: socket.socket) -> None:
    """Listen at once, and answer when all bundles are loaded. Raises `BundleError` where one cannot be."""
    host, port = listening.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("%s: listening, loading %s", at, ", ".join(services.names))
    loading = asyncio.create_task(services.load())
    loading.add_done_callback(partial(_loaded, server, services, at))
    await server.serve([listening])
    if not loading.done():
        loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


def _loaded(server: uvicorn.Server, services: Services, at: str, loading: asyncio.Task[None]) -> None:
    if loading.cancelled() or loading.exception():
        server.should_exit = True
        return
    for name in services.names:
        log.info("%s/v1/%s: version %s answers", at, name, services.version(name))


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises `KnownError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason, *_ = (error.strerror or type(error).__name__).split(" (")  # what follows names the address once more
        raise KnownError(f"--host {host} --port {port}: {reason}; choose another") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.http", description="answer HTTP from bundles, without Ray")
    parser.add_argument("bundle", nargs="+", help="folder of a bundle, or <name>=<folder>")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help="TCP port, 0 = a free one (default AIP_HTTP_PORT of Vertex AI, else 8000)"
    )
    parser.add_argument("--keys", help="file of API keys: ask every client for one", metavar="FILE")
    parser.add_argument(
        "--open", action="store_true", help="what stands in front asks who a client is: listen beyond loopback, too"
    )
    for name, words in OPTIONS.items():
        field = ServingSpec.model_fields[name]
        default = "" if field.default is None else f" (default {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{words or field.description}{default}", metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
