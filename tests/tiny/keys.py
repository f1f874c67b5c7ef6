"""Services behind uvicorn that ask for API keys, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from configs.schema.serving import ServingSpec
from serving.access import Gate
from serving.admission import Keys
from serving.platforms import Vertex
from serving.services import Services
from serving.site import Site
from tests.tiny.services import answering

BODY = {"inputs": ["refund"]}


def site_of(folder: Path, *names: str, vertex: Vertex = Vertex()) -> Site:  # noqa: B008
    """Services of the bundles of these names in `folder`, loaded."""
    spec = ServingSpec.model_validate({})
    services = Services({name: folder / name for name in names}, spec)
    asyncio.run(services.load())
    return Site(services, spec, vertex)


@dataclass
class Shop:
    """A site behind uvicorn that asks for keys."""

    url: str
    path: Path  # of the keys

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> requests.Response:
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key is not None else {})
        return requests.request(method, self.url + path, headers=headers, timeout=15, **more)

    def post(self, path: str, key: str | None, body: Any = BODY, **more: Any) -> requests.Response:
        return self.ask("POST", path, key, json=body, **more)


@contextmanager
def shop_of(site: Site, path: Path) -> Iterator[Shop]:
    """The site, with the keys of the file at `path`."""
    keys = Keys(path)
    with answering(Gate(site, lambda: keys, site.service_of, site.is_open)) as url:
        yield Shop(url, path)
