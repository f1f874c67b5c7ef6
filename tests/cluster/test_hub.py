"""A server of this machine stands for the Hub."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from cluster import hub
from configs.loader import UsageError
from tests.answering import Answering, answering

AT = "teacher.model: shop/encoder"
HERE = f"{AT}: no such folder here"
Hub = Callable[..., AbstractContextManager[Answering]]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub's client keeps what it has downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._ask.cache_clear()
    return tmp_path / "hub"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that answers so."""

    @contextmanager
    def serve(status: int | None, body: str = "{}", headers: Mapping[str, str] | None = None) -> Iterator[Answering]:
        with answering(status, body, headers) as server:
            monkeypatch.setattr(constants, "ENDPOINT", server.address)
            yield server

    return serve


def keep(cache: Path, name: str = "shop/encoder", kind: str = "model") -> Path:
    """Put a model, or a data set, into the cache."""
    folder = cache / f"{kind}s--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1")
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "snapshots" / "1" / "config.json").write_text("{}")
    return folder / "snapshots" / "1"


def requests(server: Answering) -> int:
    """How often it was asked for the model: the Hub's client has a question of its own."""
    return len([path for path in server.asked if path.startswith("/api/models/shop/encoder")])


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "has no such model for you; correct the name, or set HF_TOKEN"),
        (401, {}, "; correct the name, or set HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "(401); correct the name, or set"),
        (403, {"X-Error-Code": "GatedRepo"}, "does not give this model (403); accept its terms there, and set HF_TOK"),
        (403, {}, "refuses to answer (403); correct the name, or set HF_TOKEN"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'v2' of this model; give one that it has"),
        (410, {}, "has no such model; correct the name"),
    ],
)
def test_what_the_hub_refuses_is_one_line_after_one_request(
    answers: Hub, status: int, headers: dict[str, str], said: str
):
    with answers(status, "", headers) as server:
        for _ in range(2):  # asked once a process
            with pytest.raises(UsageError) as refused:
                hub.check("model", "shop/encoder", "v2", AT)
            assert str(refused.value).startswith(f"{HERE}, and the Hub ")
            assert said in str(refused.value)
        assert requests(server) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_one_line_after_one_request(answers: Hub, status: int):
    with answers(status) as server, pytest.raises(UsageError) as refused:
        hub.check("model", "shop/encoder", None, AT)
    assert str(refused.value) == (
        f"{HERE}, nor in the cache of the Hub, and the Hub does not answer ({status}); give a folder, or fetch the "
        "model where the Hub answers: hf download shop/encoder"
    )
    assert requests(server) == 1


def test_a_hub_that_keeps_silent_is_given_up_after_seconds(answers: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "ASKED_SECONDS", 0.2)
    with answers(None) as server, pytest.raises(UsageError, match=r"the Hub does not answer \(.+\); give a folder"):
        hub.check("model", "shop/encoder", None, AT)
    assert requests(server) == 1


def test_a_network_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(UsageError, match=r"the Hub does not answer \(.*refused.*\)"):
            hub.check("model", "shop/encoder", None, AT)


def test_a_client_that_hangs_before_its_own_timeout_is_given_up(monkeypatch: pytest.MonkeyPatch, answers: Hub):
    monkeypatch.setattr(hub, "ASKED_SECONDS", 0.2)
    with answers(None) as server:
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: _hang(server.address))
        with pytest.raises(UsageError, match=r"no answer in 0\.2 s"):
            hub.check("model", "shop/encoder", None, AT)


def _hang(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1)


def test_offline_is_one_line_and_nobody_is_asked(answers: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with answers(200) as server, pytest.raises(UsageError) as refused:
        hub.check("model", "shop/encoder", None, AT)
    assert str(refused.value).startswith(
        f"{HERE}, nor in the cache of the Hub, and HF_HUB_OFFLINE forbids to ask the Hub;"
    )
    assert server.asked == []


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_the_cache_has_is_used_where_the_hub_does_not_answer(
    answers: Hub, empty_cache: Path, caplog: pytest.LogCaptureFixture, kind: hub.Kind
):
    keep(empty_cache, kind=kind)
    with answers(503), caplog.at_level(logging.WARNING):
        assert not hub.check(kind, "shop/encoder", None, AT)
    assert caplog.messages == [f"{AT}: the Hub does not answer (503); what the cache has of it is used"]


def test_a_snapshot_of_the_cache_needs_no_network(answers: Hub, empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = keep(empty_cache)
    with answers(503) as server:
        assert hub.snapshot("shop/encoder", None, AT, ["*.json"]) == kept
    assert server.asked == []


def test_what_the_hub_has_is_no_reason_to_refuse(answers: Hub):
    with answers(200, json.dumps({"id": "shop/encoder", "siblings": [], "tags": []})):
        assert hub.check("model", "shop/encoder", None, AT)
        assert hub.check("dataset", "shop/encoder", None, AT)


def test_a_data_set_is_called_one(answers: Hub):
    with answers(503), pytest.raises(UsageError) as refused:
        hub.check("dataset", "shop/rows", None, "data.train: shop/rows")
    assert "no such file here, nor in the cache" in str(refused.value)
    assert str(refused.value).endswith(
        "fetch the data set where the Hub answers: hf download shop/rows --repo-type dataset"
    )


def test_a_name_that_is_no_id_is_not_asked_for(answers: Hub):
    with answers(200) as server, pytest.raises(UsageError, match=r"takes no such name; an id is owner/name"):
        hub.check("model", "shop/--encoder--", None, AT)
    assert server.asked == []
