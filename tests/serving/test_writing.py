"""Decoders over HTTP: real CTranslate2 bundles behind uvicorn, without Ray."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from configs.schema.serving import ServingSpec
from serving.endpoint import create_app
from serving.generator import load_generator
from serving.texts import Texts
from serving.writing import Writer
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.services import SERVICE, SPEC, answering, events, writer

SECRET = "my-card-is-4111"
SCRIPT = "where is my order\nAusgeliefert 🙂🙂 am 订单 42. STOP Danke"
PROMPTS = ["where", "is my", "order 7", "where is my order"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("writing")
    write_tiny_decoder(made / "script", SCRIPT.encode(), max_length=80)
    write_tiny_decoder(made / "random", seed=3)
    return made


@pytest.fixture(scope="module")
def scripted(folder: Path) -> Iterator[str]:
    model = writer(folder / "script")
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        yield f"{address}/v1/{SERVICE}"


@pytest.fixture(scope="module")
def random(folder: Path) -> Iterator[str]:
    model = writer(folder / "random")
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        yield f"{address}/v1/{SERVICE}"


def ask(url: str, **body: Any) -> list[dict[str, Any]]:
    response = requests.post(url, json=body, timeout=20)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["model"] == {"name": "tiny", "version": "1"}
    return answer["predictions"]


def streamed(url: str, **body: Any) -> list[dict[str, Any]]:
    """Predictions, joined from their events."""
    came = events(requests.post(url, json={**body, "stream": True}, timeout=20))
    texts = [""] * len(body["inputs"])
    ends: dict[int, dict[str, Any]] = {}
    for each in came:
        assert each["index"] not in ends
        texts[each["index"]] += each["text"]
        if "finish_reason" in each:
            ends[each["index"]] = each
    assert all(each["model"] == {"name": "tiny", "version": "1"} for each in ends.values())
    return [{"text": text, "finish_reason": ends[index]["finish_reason"]} for index, text in enumerate(texts)]


def test_details_say_what_the_model_could_not_read_whether_streamed_or_not(random: str):
    whole = ask(random, inputs=PROMPTS, details=True)
    for each in whole:
        assert each["unknown"] == 0 and each["cut"] is False and each["ms"] > 0  # every byte has a token of its own
    ends = [
        each
        for each in events(requests.post(random, json={"inputs": PROMPTS, "details": True, "stream": True}, timeout=20))
        if "finish_reason" in each
    ]
    assert len(ends) == len(PROMPTS) and all({"unknown", "cut", "ms"} <= each.keys() for each in ends)
    assert {"unknown", "cut", "ms"}.isdisjoint(ask(random, inputs=PROMPTS)[0])


def test_texts_come_in_order_and_equal_the_runtimes(random: str, folder: Path):
    expected = [each["text"].rstrip("\ufffd") for each in load_generator(folder / "random").predict(PROMPTS)]
    assert len(set(expected)) == len(PROMPTS)
    assert [each["text"] for each in ask(random, inputs=PROMPTS)] == expected


@pytest.mark.parametrize(
    "manner", [{}, {"max_tokens": 7}, {"stop": ["o", "STOP"]}, {"stop": "订单 4", "max_tokens": 50}]
)
@pytest.mark.parametrize("kind", ["scripted", "random"])
def test_a_stream_joined_is_the_text_at_once(kind: str, manner: dict, request: pytest.FixtureRequest):
    url = request.getfixturevalue(kind)
    assert streamed(url, inputs=PROMPTS, **manner) == ask(url, inputs=PROMPTS, **manner)


def test_a_text_ends_by_itself_by_a_stop_string_or_by_its_length(scripted: str):
    rest = SCRIPT.encode()[len("order 7\n") :].decode()
    (whole,) = ask(scripted, inputs=["order 7"])
    (stopped,) = ask(scripted, inputs=["order 7"], stop="STOP")
    (short,) = ask(scripted, inputs=["order 7"], max_tokens=12)
    assert whole == {"text": rest, "finish_reason": "stop"}
    assert stopped == {"text": rest.partition("STOP")[0], "finish_reason": "stop"}
    assert short == {"text": rest[:12], "finish_reason": "length"}


def test_the_last_event_counts_tokens(scripted: str):
    *pieces, last = events(
        requests.post(scripted, json={"inputs": ["where"], "max_tokens": 9, "stream": True}, timeout=20)
    )
    assert last["usage"] == {"prompt_tokens": 6, "completion_tokens": 9}
    assert all(each.keys() == {"index", "text"} for each in pieces)
    (whole,) = ask(scripted, inputs=["where"], max_tokens=9)
    assert "".join(each["text"] for each in [*pieces, last]) == whole["text"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"inputs": []}, "inputs must be a list of at least one input"),
        ({"inputs": ["a", 1]}, "input 1 is neither"),
        ({"inputs": ["a", {"text": SECRET}]}, "input 1 is not a text"),
        ({"inputs": ["a"] * 5}, "5 inputs; send at most 4"),
        ({"inputs": ["a", SECRET * 6]}, "input 1 has 91 tokens; this model reads at most 63"),
        ({"inputs": ["a"], "max_tokens": 61}, "max_tokens must be at most 60"),
        ({"inputs": ["a"], "max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        ({"inputs": ["a"], "max_tokens": SECRET}, "max_tokens must be"),
        ({"inputs": ["a"], "temperature": -1}, "temperature must be a number from 0"),
        ({"inputs": ["a"], "temperature": "0.5"}, "temperature must be"),
        ({"inputs": ["a"], "top_p": 0}, "top_p must be a number above 0"),
        ({"inputs": ["a"], "top_k": 1.5}, "top_k must be a whole number"),
        ({"inputs": ["a"], "stop": ["a"] * 5}, "stop must be a text of 1 to 64 characters"),
        ({"inputs": ["a"], "stop": [""]}, "stop must be"),
        ({"inputs": ["a"], "stop": [SECRET * 9]}, "stop must be"),
        ({"inputs": ["a"], "stream": "yes"}, "stream must be true or false"),
        ({"inputs": ["a"], "seed": 1, "temperature": 0.7}, "seed: this model's runtime draws all its texts with one"),
        ({"inputs": ["a"], SECRET: 1}, "unknown key; known are inputs, max_tokens, temperature, top_p, top_k, seed"),
        ({"inputs": ["a"], "scores": True}, "unknown key"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_is_wrong_is_one_line_that_does_not_repeat_it(random: str, body: dict, detail: str, stream: bool):
    response = requests.post(random, json={"stream": stream, **body}, timeout=10)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert detail in response.json()["detail"]
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 400, "not JSON"),
        (b'{"inputs": ["\xf0\x9f"]}', 400, "not JSON"),
        (b'{"inputs": ["a"], "stop": "\\ud83d"}', 400, "not JSON"),
        (b'{"inputs": ["a"], "temperature": NaN}', 400, "holds NaN or Infinity"),
        (b'{"inputs": ["a"], "temperature": Infinity}', 400, "holds NaN or Infinity"),
        (b'{"inputs": ["a"], "top_p": NaN}', 400, "holds NaN or Infinity"),
        (b'{"inputs": ["a"], "max_tokens": ' + b"9" * 3000 + b"}", 400, "more than 64 bits"),
        (b'{"inputs": ["a"], "max_tokens": true}', 422, "max_tokens must be"),
        (b'{"inputs": ["a"], "stop": [["a"]]}', 422, "stop must be"),
        (b'{"inputs": ["a"], "stop": {"a": 1}}', 422, "stop must be"),
        (b'{"inputs": ["a"], "stream": null}', 422, "stream must be"),
        (b" " * 5000, 413, "larger than 4096 bytes"),
    ],
)
def test_a_hostile_body_is_one_line(random: str, body: bytes, status: int, detail: str):
    response = requests.post(random, data=body, timeout=10)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert detail in response.json()["detail"]


def test_a_choice_from_more_tokens_than_there_are_is_one_from_all(random: str):
    assert ask(random, inputs=["a"], temperature=1, top_k=10**18, max_tokens=4)[0]["finish_reason"] == "length"


def test_the_same_seed_gives_the_same_text_where_it_is_taken(random: str):
    first, second = (ask(random, inputs=["refund"], seed=7, temperature=0) for _ in range(2))
    assert first == second


def test_drawn_texts_differ(random: str):
    drawn = {ask(random, inputs=["refund"], temperature=1.5, top_k=50, top_p=0.9)[0]["text"] for _ in range(4)}
    assert len(drawn) > 1


def stalled(model: Writer, at: int) -> tuple[threading.Event, threading.Event]:
    """The model stops before its token `at`: (it has, it may go on)."""
    stopped, go_on = threading.Event(), threading.Event()
    write, steps = model.generator.writer.write, iter(range(10_000))

    def watched(prompts: Any, most: int, sampling: Any, step: Any) -> None:
        def told(row: int, token: int | None) -> bool:
            if next(steps) == at:
                stopped.set()
                assert go_on.wait(20)
            return step(row, token)

        write(prompts, most, sampling, told)

    model.generator.writer.write = watched  # type: ignore[method-assign]
    return stopped, go_on


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch, stream: bool):
    left: queue.Queue[Texts] = queue.Queue()
    leave = Texts.leave
    monkeypatch.setattr(Texts, "leave", lambda self: (leave(self), left.put(self))[0])
    model = writer(folder / "random", max_batch_size=1)
    stopped, go_on = stalled(model, 5)
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        connection.request("POST", f"/v1/{SERVICE}", json.dumps({"inputs": ["refund"], "stream": stream}))
        assert stopped.wait(20)
        if stream:
            response = connection.getresponse()
            assert response.read(10)
            response.close()
        connection.close()
        (gone,) = left.get(timeout=20).writings
        go_on.set()
        assert ask(f"{address}/v1/{SERVICE}", inputs=["cancel"])[0]["finish_reason"] == "length"
    assert gone.left and len(gone.written) == 5 < gone.most


def test_a_text_that_takes_too_long_is_given_up(folder: Path):
    model = writer(folder / "random")
    spec = ServingSpec.model_validate({**SPEC.model_dump(), "request_timeout_s": 0.3})
    stopped, go_on = stalled(model, 4)
    with answering(create_app(SERVICE, spec, lambda: model)) as address:
        came = requests.post(f"{address}/v1/{SERVICE}", json={"inputs": ["refund"], "stream": True}, timeout=20)
        late = requests.post(f"{address}/v1/{SERVICE}", json={"inputs": ["refund"]}, timeout=20)
        go_on.set()
    assert stopped.is_set() and came.status_code == 200
    last = came.text.removesuffix("\n\n").rpartition("\n\n")[2]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2])["detail"] == "the text was not written within 0.3 s"
    assert late.status_code == 504


def test_a_stream_ends_by_the_model_that_it_began_with(folder: Path):
    models = [writer(folder / "random"), writer(folder / "script", version="2")]
    now = models[0]
    (expected,) = load_generator(folder / "random").predict(["refund"])
    stopped, go_on = stalled(models[0], 5)
    with answering(create_app(SERVICE, SPEC, lambda: now)) as address, requests.Session() as session:
        url = f"{address}/v1/{SERVICE}"
        response = session.post(url, json={"inputs": ["refund"], "stream": True}, stream=True, timeout=20)
        assert stopped.wait(20)
        now = models[1]
        models.clear()
        swapped = requests.post(url, json={"inputs": ["refund"]}, timeout=20).json()
        go_on.set()
        came = events(response)
    assert "".join(each["text"] for each in came) == expected["text"].rstrip("\ufffd")
    assert came[-1]["model"] == {"name": "tiny", "version": "1"}
    assert swapped["model"]["version"] == "2"


def test_requests_beyond_the_queue_are_refused_and_may_come_back(folder: Path):
    model = writer(folder / "random", max_batch_size=1, max_waiting_texts=2)
    stopped, go_on = stalled(model, 2)
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address, ThreadPoolExecutor() as pool:
        url = f"{address}/v1/{SERVICE}"
        first = pool.submit(ask, url, inputs=["refund"])
        assert stopped.wait(20)
        refused = requests.post(url, json={"inputs": ["a", "b", "c"]}, timeout=20)
        go_on.set()
        assert first.result(20)
        assert len(ask(url, inputs=["a", "b"])) == 2
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["detail"] == "too many texts wait already; ask again"


def test_an_error_of_the_model_ends_a_stream_and_tells_only_the_request_id(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    model = writer(folder / "random")

    def broken(prompts: Any, most: int, sampling: Any, step: Any) -> None:
        step(0, 65)
        raise ValueError(SECRET)

    model.generator.writer.write = broken  # type: ignore[method-assign]
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        response = requests.post(f"{address}/v1/{SERVICE}", json={"inputs": [SECRET], "stream": True}, timeout=20)
        at_once = requests.post(f"{address}/v1/{SERVICE}", json={"inputs": [SECRET]}, timeout=20)
    assert response.headers["x-request-id"] in response.text
    assert "quote the request id" in response.text and at_once.status_code == 500
    assert SECRET not in response.text + at_once.text + caplog.text
