"""Services of tiny decoders behind uvicorn, without Ray."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import uvicorn
from starlette.types import ASGIApp

from configs.schema.serving import ServingSpec
from serving.service import Release
from serving.writing import Writer, put_in_service

SERVICE = "reply"
SPEC = ServingSpec.model_validate({"max_inputs": 4, "max_tokens": 60, "max_waiting_texts": 8, "max_body_bytes": 4096})


def writer(folder: Path, version: str = "1", **fields: Any) -> Writer:
    """A decoder in service; `fields` differ from `SPEC`."""
    spec = ServingSpec.model_validate({**SPEC.model_dump(), **fields})
    return put_in_service(SERVICE, Release(bundle=str(folder), name="tiny", version=version), spec)


@contextmanager
def answering(app: ASGIApp) -> Iterator[str]:
    """The address of a server of `app`."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    ready = threading.Event()
    own = server.startup

    async def startup(sockets: Any = None) -> None:
        await own(sockets)
        ready.set()

    server.startup = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(timeout=20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def events(response: requests.Response) -> list[Any]:
    """The objects of a stream of server-sent events; `[DONE]` is a text."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *blocks, last = response.content.decode("utf-8", "strict").split("\n\n")
    assert last == ""
    data = [each.removeprefix("data: ") for each in blocks]
    return [each if each == "[DONE]" else json.loads(each) for each in data]
