"""API keys over HTTP: behind uvicorn, in the layer around a site, and in the applications that Serve runs."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from fastapi.testclient import TestClient

from configs.schema.serving import ServingSpec
from serving.access import Gate
from serving.admission import Keys
from serving.http import check_host, main
from serving.keys import add, read, revoke
from serving.platforms import Vertex
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.http import ended, ready, started
from tests.tiny.keys import BODY, Shop, shop_of, site_of
from tests.tiny.services import events

PROBLEM = "application/problem+json"
NO_KEY, NOT_VALID = "an API key is needed here", "this API key does not hold here"
FORBIDDEN = "this API key may not ask this service"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("access")
    write_tiny_bundle(made / "intent", seed=1)
    write_tiny_bundle(made / "second", seed=2)
    write_tiny_decoder(made / "writer", b"a\n says hello.")
    return made


@pytest.fixture(scope="module")
def shop(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Three services."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    add(path, "first")
    with shop_of(site_of(folder, "intent", "second", "writer"), path) as made:
        yield made


@pytest.fixture(scope="module")
def everything(shop: Shop) -> str:
    return add(shop.path, "everything")


@pytest.fixture(scope="module")
def limited(shop: Shop) -> str:
    return add(shop.path, "limited", ["intent", "unheard"])


def assert_problem(response: requests.Response, status: int, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body["status"] == status and detail in body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]


def with_another_end(key: str) -> str:
    return key[:-1] + ("0" if key[-1] != "0" else "1")


def test_without_a_key_nothing_is_answered_and_the_answer_says_how_to_send_one(shop: Shop):
    for method, path in (("POST", "/v1/intent"), ("GET", "/v1/models"), ("GET", "/v1/nothing"), ("PUT", "/healthz")):
        answer = shop.ask(method, path, json=BODY)
        assert_problem(answer, 401, NO_KEY)
        assert answer.headers["www-authenticate"] == 'Bearer realm="slimcart"'
        assert "intent" not in answer.text and "writer" not in answer.text


def test_a_key_is_taken_from_either_header_whatever_the_case_of_its_scheme(shop: Shop, everything: str):
    expected = shop.post("/v1/intent", everything).json()
    assert expected["predictions"]
    for headers in (
        {"authorization": f"bearer {everything}"},
        {"Authorization": f"BEARER  {everything}"},
        {"X-API-Key": everything},
        {"X-API-Key": everything, "Authorization": "Bearer a-token-of-the-platform"},
    ):
        assert shop.post("/v1/intent", None, headers=headers).json() == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic {}"},
        {"Authorization": "{}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
        {"Cookie": "key={}"},
    ],
)
def test_a_key_anywhere_else_is_none(shop: Shop, everything: str, headers: dict[str, str]):
    sent = {name: value.format(everything) for name, value in headers.items()}
    assert_problem(shop.post("/v1/intent", None, headers=sent), 401, NO_KEY)
    assert_problem(shop.ask("POST", f"/v1/intent?key={everything}&api_key={everything}", json=BODY), 401, NO_KEY)


def test_a_header_that_stands_twice_is_no_key(shop: Shop, everything: str):
    host, port = shop.url.removeprefix("http://").split(":")
    twice = f"X-API-Key: {everything}\r\n" * 2
    with socket.create_connection((host, int(port)), timeout=15) as client:
        client.sendall(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{twice}\r\n".encode())
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 401")


def test_what_is_no_key_of_the_file_does_not_hold(shop: Shop, everything: str, limited: str):
    prefix, key_id, secret = limited.split("_")
    for wrong in (
        with_another_end(everything),
        everything[:-1],
        everything + "0",
        everything.upper(),
        f"{prefix}_{key_id}_{everything.rpartition('_')[2]}",
        f"sc_{'0' * 12}_{secret}",
        "sc_",
        "\xff\xfe",
        "x" * 5000,
        read(shop.path).keys[0].hash,
    ):
        answer = shop.ask("POST", "/v1/intent", json=BODY, headers={"X-API-Key": wrong.encode("latin-1")})
        assert_problem(answer, 401, NOT_VALID)
        assert answer.headers["www-authenticate"].endswith('error="invalid_token"')


def test_health_and_pages_need_no_key(shop: Shop, limited: str):
    for path in ("/healthz", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert shop.ask("GET", path).status_code == 200
        assert shop.ask("HEAD", path).status_code != 401
    assert shop.ask("GET", "/ping", "a-token-of-the-platform").status_code == 200
    for path in ("/", "/docs", "/openapi.json"):
        assert shop.ask("GET", path).status_code == shop.ask("GET", path, limited).status_code == 200
        assert shop.ask("GET", path, "wrong").status_code == shop.ask("POST", path).status_code == 401
    shown = [shop.ask("GET", "/openapi.json", key).json()["paths"] for key in (None, limited)]
    assert [[name for name in ("intent", "second", "writer") if f"/v1/{name}" in each] for each in shown] == [
        [],
        ["intent"],
    ]
    for path in ("/v2", "/v2/models/intent/ready", "/healthz/", "//healthz", "/v1/healthz"):
        assert shop.ask("GET", path).status_code == 401, path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/second", BODY),
        ("POST", "/v1/second/anything", BODY),
        ("GET", "/v1/second", None),
        ("GET", "/v1/second/models", None),
    ],
)
def test_a_service_that_a_key_may_not_ask_is_forbidden(
    shop: Shop, everything: str, limited: str, method: str, path: str, body: Any
):
    assert_problem(shop.ask(method, path, limited, json=body), 403, FORBIDDEN)
    assert shop.ask(method, path, everything, json=body).status_code not in (401, 403)
    assert shop.post("/v1/intent", limited).status_code == 200


def test_kserve_asks_for_keys_in_its_own_form(shop: Shop, everything: str, limited: str):
    infer = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["refund"]}]}
    assert shop.post("/v2/models/second/infer", everything, infer).status_code == 200
    assert shop.post("/v2/models/intent/infer", limited, infer).status_code == 200
    for method, path in (("POST", "/v2/models/second/infer"), ("GET", "/v2/models/second"), ("GET", "/v2/models/none")):
        answer = shop.ask(method, path, limited, json=infer)
        assert (answer.status_code, answer.json()) == (403, {"error": FORBIDDEN})
    answer = shop.post("/v2/models/second/infer", None, infer)
    assert (answer.status_code, list(answer.json())) == (401, ["error"]) and NO_KEY in answer.json()["error"]
    assert "models: intent, second, writer" in shop.ask("GET", "/v2/models/none", everything).json()["error"]


def test_a_client_sees_of_all_services_those_that_it_may_ask(shop: Shop, everything: str, limited: str):
    for key, names in ((everything, ["intent", "second", "writer"]), (limited, ["intent"])):
        listed = shop.ask("GET", "/v1/models", key).json()
        assert [each["service"] for each in listed["models"]] == [each["id"] for each in listed["data"]] == names
        told = ", ".join(f"/v1/{name}" for name in names)
        assert_problem(shop.post("/v1/nothing", key), 404, f"services: {told}")


def client(shop: Shop, base: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=shop.url + base, api_key=key, max_retries=0, timeout=15)


@pytest.mark.parametrize("base", ["/v1/writer", "/v1"])
def test_openais_client_sends_its_api_key(shop: Shop, everything: str, limited: str, base: str):
    asked = client(shop, base, everything)
    assert asked.completions.create(model="writer", prompt="a").choices[0].text == " says hello."
    chunks = asked.completions.create(model="writer", prompt="a", stream=True)
    assert "".join(each.choices[0].text for each in chunks) == " says hello."
    with pytest.raises(openai.AuthenticationError) as refused:
        client(shop, base, with_another_end(everything)).completions.create(model="writer", prompt="a")
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError, match=FORBIDDEN):
        client(shop, base, limited).completions.create(model="writer", prompt="a")


def test_the_service_that_a_body_names_is_checked_before_it_is_looked_for(shop: Shop, everything: str, limited: str):
    for path in ("/v1/completions", "/v1/chat/completions"):
        for name in ("second", "writer", "none"):
            answer = shop.post(path, limited, {"model": name})
            assert answer.status_code == 403
            error = {"message": FORBIDDEN, "type": "invalid_request_error", "param": "model", "code": None}
            assert answer.json() == {"error": error}
    answer = shop.post("/v1/completions", limited, {"model": "unheard"})  # the key may ask it, and it does not run
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "model must be a service: intent")
    assert shop.post("/v1/completions", limited, {"model": "intent", "prompt": "a"}).status_code == 404
    assert shop.post("/v1/completions", everything, {"model": "writer", "prompt": "a"}).status_code == 200


def test_a_stream_is_let_through_whole(shop: Shop, everything: str):
    came = events(shop.post("/v1/writer", everything, {"inputs": ["a"], "stream": True}))
    assert "".join(each["text"] for each in came) == " says hello."


def test_what_a_client_writes_of_itself_opens_nothing(shop: Shop):
    forged = {"may_ask": "1", "x-may-ask": "intent", "x-request-id": "abc", "x-forwarded-for": "127.0.0.1"}
    answer = shop.post("/v1/intent", None, {**BODY, "state": {"may_ask": True}}, headers=forged)
    assert answer.status_code == 401 and answer.json()["request_id"] == "abc"


def test_a_revoked_key_does_not_hold_at_the_next_request_and_a_new_one_does(shop: Shop):
    key = add(shop.path, "for now")
    assert shop.post("/v1/intent", key).status_code == 200
    revoke(shop.path, key.split("_")[1])
    assert_problem(shop.post("/v1/intent", key), 401, NOT_VALID)


def test_an_expired_key_does_not_hold(shop: Shop):
    key = add(shop.path, "over", expires=datetime.now(UTC) - timedelta(seconds=1))
    assert_problem(shop.post("/v1/intent", key), 401, NOT_VALID)


@pytest.mark.parametrize("limit", [{"rate": 2}, {"daily": 2}])
def test_over_its_limit_a_key_is_told_when_to_come_back(shop: Shop, limit: dict[str, Any]):
    key, other = add(shop.path, "hasty", **limit), add(shop.path, "another", **limit)
    assert [shop.post("/v1/intent", key).status_code for _ in range(2)] == [200, 200]
    answer = shop.post("/v1/intent", key)
    assert_problem(answer, 429, f"ask again in {answer.headers['retry-after']} s")
    assert 0 < int(answer.headers["retry-after"]) <= (30 if "rate" in limit else 86400)
    with pytest.raises(openai.RateLimitError) as refused:
        client(shop, "/v1", key).completions.create(model="writer", prompt="a")
    assert refused.value.code == "rate_limit_exceeded"
    assert shop.post("/v2/models/intent/infer", key, {}).json().keys() == {"error"}
    assert shop.post("/v1/intent", other).status_code == 200
    assert shop.post("/v1/intent", with_another_end(key)).status_code == 401


def test_a_change_of_the_file_leaves_what_was_counted(shop: Shop):
    key = add(shop.path, "counted", daily=1)
    assert shop.post("/v1/intent", key).status_code == 200
    add(shop.path, "one more")
    assert shop.post("/v1/intent", key).status_code == 429


def test_no_key_is_in_a_log_or_an_answer(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of one that holds, one that does not, and those that stand where they should not."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "keys.json"
    key, gone = add(path, "one", ["intent"], daily=8), add(path, "two")
    revoke(path, gone.split("_")[1])
    secrets = [each.rpartition("_")[2] for each in (key, gone)] + [each.hash for each in read(path).keys]
    with shop_of(site_of(folder, "intent", "second"), path) as shop:
        said = [
            shop.post(where, given, body)
            for given in (key, gone)
            for where, body in (
                ("/v1/intent", BODY),
                ("/v1/intent", {"inputs": [], key: gone}),
                ("/v1/second", BODY),
                (f"/v1/{key}", BODY),
                (f"/v2/models/{key}/infer", {}),
                ("/v1/completions", {"model": key}),
                ("/v1/completions", {"model": "intent", "prompt": [key], gone: 1}),
                ("/v1/models", BODY),
                ("/v1/intent", BODY),
                ("/v1/intent", BODY),
            )
        ]
        path.write_text(key)
        said.append(shop.post("/v1/intent", key))
    assert {each.status_code for each in said} >= {200, 401, 403, 404, 422, 429}
    ours = [each.getMessage() for each in caplog.records if not each.name.startswith("urllib3")]  # the client's
    text = "\n".join([*ours, *(each.text + str(each.headers) for each in said)])
    assert "no file of keys" in text
    assert not [secret for secret in secrets if secret in text]


def test_an_error_that_was_not_foreseen_tells_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from serving.endpoint import create_app

    def broken() -> Any:
        raise RuntimeError(key)

    key = add(tmp_path / "keys.json", "one")
    keys = Keys(tmp_path / "keys.json")
    app = Gate(create_app("intent", ServingSpec.model_validate({}), broken), lambda: keys)
    answer = TestClient(app).post("/v1/intent", json=BODY, headers={"X-API-Key": key})
    assert answer.status_code == 500 and key not in answer.text + caplog.text


def test_routes_that_name_no_service_ask_the_only_one(folder: Path, tmp_path: Path):
    vertex = Vertex(health="/health", predict="/v1/endpoints/7:predict")
    path = tmp_path / "keys.json"
    right, wrong = add(path, "right", ["intent"]), add(path, "wrong", ["second"])
    with shop_of(site_of(folder, "intent", vertex=vertex), path) as shop:
        for where, body in (("/invocations", BODY), ("/v1/endpoints/7:predict", {"instances": ["refund"]})):
            assert shop.post(where, right, body).status_code == 200
            assert_problem(shop.post(where, wrong, body), 403, FORBIDDEN)
            assert_problem(shop.post(where, None, body), 401, NO_KEY)
        assert [shop.ask("GET", where).status_code for where in ("/health", "/ping")] == [200, 200]
        assert shop.ask("GET", "/v1/models", wrong).json()["data"] == []


def test_where_no_keys_are_asked_for_everybody_is_answered(folder: Path):
    site = site_of(folder, "intent")
    asked = TestClient(Gate(site, lambda: None, site.service_of, site.is_open))
    assert asked.post("/v1/intent", json=BODY).status_code == 200
    assert len(asked.get("/v1/models").json()["data"]) == 1


def test_another_protocol_than_http_is_closed(tmp_path: Path):
    async def app(*_: object) -> None:
        raise AssertionError

    keys, sent = Keys(tmp_path / "keys.json"), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(Gate(app, lambda: keys)({"type": "websocket", "path": "/v1/intent", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_host_beyond_loopback_needs_a_valid_key_or_the_word_of_who_runs_it(tmp_path: Path):
    from configs.errors import UsageError

    path = tmp_path / "keys.json"
    add(path, "old", expires=datetime.now(UTC) - timedelta(days=1))
    for host, is_open in (("0.0.0.0", False), ("0.0.0.0", True), ("127.0.0.1", False)):
        with pytest.raises(UsageError, match=r"--keys: .*: holds no key that is valid now"):
            check_host(host, is_open, path)
    add(path, "new")
    check_host("0.0.0.0", False, path)
    check_host("0.0.0.0", True)
    with pytest.raises(UsageError, match="give --keys, or say --open"):
        check_host("0.0.0.0", False)


@pytest.mark.slow
def test_the_command_asks_for_keys_and_logs_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "keys.json"
    assert main([str(folder / "intent"), "--keys", str(path)]) == 2
    assert re.fullmatch(r"--keys: .*: no such file; python -m serving\.keys add .*\n", capsys.readouterr().err)
    key = add(path, "one")
    popen = started(str(folder / "intent"), "--host", "0.0.0.0", "--keys", str(path))
    try:
        process = ready(popen)
        shop = Shop(process.url.replace("0.0.0.0", "127.0.0.1"), path)
        assert shop.post("/v1/intent", key).status_code == 200
        assert_problem(shop.post("/v1/intent", None), 401, NO_KEY)
        assert shop.ask("GET", "/healthz").status_code == 200
        revoke(path, key.split("_")[1])
        assert_problem(shop.post("/v1/intent", key), 401, NOT_VALID)
        popen.terminate()
        out, err = popen.communicate(timeout=30)
    finally:
        ended(popen)
    assert key.rpartition("_")[2] not in out + err
