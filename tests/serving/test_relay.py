"""What a service gets of a request that came to the catalogue."""

from collections.abc import Mapping

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from configs.schema.serving import ServingSpec
from serving.endpoint import create_catalogue
from serving.relay import Parts, through

CHOSEN = {"x-request-id": "4711", "x-model-version": "1"}
SENT = {"X-Customer": "7", "Authorization": "Bearer secret", "Cookie": "a=b", **CHOSEN}


@pytest.mark.parametrize(
    ("rollout", "handed"),
    [
        ({}, {}),
        ({"candidate": {"name": "t", "version": "2", "share": 50}}, {}),
        ({"candidate": {"name": "t", "version": "2", "share": 50, "sticky": "X-Customer"}}, {"x-customer": "7"}),
        ({"candidate": {"name": "t", "version": "2", "share": 50, "sticky": "X-Absent"}}, {}),
    ],
)
def test_a_service_gets_the_headers_that_choose_who_answers_and_no_other(
    rollout: dict[str, object], handed: dict[str, str]
):
    service = FastAPI()

    @service.post("/v1/writer/completions")
    async def headers_of(request: Request) -> dict[str, str]:
        return dict(request.headers)

    def relay(name: str, path: str, body: bytes, headers: Mapping[str, str]) -> Parts:
        return through(service, f"/v1/{name}/{path}", body, headers)

    entry = {"service": "writer", "name": "t", "version": "1", "task": "generate", **rollout}
    with TestClient(create_catalogue(lambda: [entry], ServingSpec(), relay)) as client:
        got = client.post("/v1/completions", json={"model": "writer"}, headers=SENT).json()
    assert got == {"content-type": "application/json", **CHOSEN, **handed}
