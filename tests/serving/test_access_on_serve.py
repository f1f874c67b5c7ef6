"""API keys in the applications that replicas of Serve run, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from configs.schema.serving import ServingSpec
from serving import app as serve_app
from serving.app import Catalogue, Service, ServiceArgs
from serving.keys import add
from tests.tiny.decoders import write_tiny_decoder


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TestClient, ...]:
    """A service and the catalogue as replicas have them, without Ray, and a file of keys."""
    monkeypatch.setattr(serve_app, "keep_to_node", lambda: None)
    write_tiny_decoder(tmp_path / "writer", b"a\n says hello.")
    path = str(tmp_path / "keys.json")
    service = Service(ServiceArgs(service="writer", serving=ServingSpec(keys=path), running=str(tmp_path / "running")))
    asyncio.run(service.reconfigure({"bundle": str(tmp_path / "writer"), "name": "t", "version": "1"}))
    catalogue = Catalogue()
    entries = [{"service": name, "name": "t", "version": "1", "task": "generate"} for name in ("intent", "writer")]
    catalogue.reconfigure({"services": entries, "keys": path})

    async def relay(_: str, *asked: Any) -> Any:
        async for part in service.relay(*asked):
            yield part

    monkeypatch.setattr(catalogue, "_relay", relay)
    return tuple(TestClient(each.__serve_build_asgi_app__()) for each in (service, catalogue))


def test_on_serve_the_service_and_the_catalogue_each_ask_for_the_key(served: tuple[TestClient, ...], tmp_path: Path):
    service, catalogue = served
    key = add(tmp_path / "keys.json", "one", ["writer"], daily=6)
    other = add(tmp_path / "keys.json", "two", ["intent"])
    bearer, wrong = ({"Authorization": f"Bearer {each}"} for each in (key, other))
    asked = {"model": "writer", "prompt": "a"}
    for client, where, body in ((service, "/v1/writer", {"inputs": ["a"]}), (catalogue, "/v1/completions", asked)):
        assert client.post(where, json=body).status_code == 401
        assert client.post(where, json=body, headers=wrong).status_code == 403
        assert client.post(where, json=body, headers=bearer).status_code == 200
    assert catalogue.get("/v1/models").status_code == 401
    assert [each["id"] for each in catalogue.get("/v1/models", headers=bearer).json()["data"]] == ["writer"]
    assert catalogue.get("/healthz").status_code == 200
    assert service.get("/v1/writer").status_code == 401


def test_what_the_catalogue_hands_on_is_asked_for_a_key_and_counted_once(
    served: tuple[TestClient, ...], tmp_path: Path
):
    _, catalogue = served
    key = add(tmp_path / "keys.json", "one", daily=2)
    asked: dict[str, Any] = {"json": {"model": "writer", "prompt": "a"}, "headers": {"X-API-Key": key}}
    assert [catalogue.post("/v1/completions", **asked).status_code for _ in range(3)] == [200, 200, 429]


def test_the_catalogue_keeps_its_count_when_a_service_comes_and_asks_no_more_when_none_has_keys(tmp_path: Path):
    path = tmp_path / "keys.json"
    key = add(path, "one", daily=1)
    catalogue = Catalogue()
    catalogue.reconfigure({"services": [], "keys": str(path)})
    keys = catalogue._keys
    assert keys and keys.admit(key.encode(), None)
    catalogue.reconfigure({"services": [{"service": "a"}], "keys": str(path)})
    assert catalogue._keys is keys
    catalogue.reconfigure({"services": []})
    assert catalogue._keys is None
