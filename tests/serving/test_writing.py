"""Decoders over HTTP: real CTranslate2 bundles behind uvicorn, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from serving.endpoint import create_app
from serving.generator import load_generator
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
    assert len(pieces) == 8 and all(each.keys() == {"index", "text"} for each in pieces)


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


def test_the_same_seed_gives_the_same_text_where_it_is_taken(random: str):
    first, second = (ask(random, inputs=["refund"], seed=7, temperature=0) for _ in range(2))
    assert first == second


def test_drawn_texts_differ(random: str):
    drawn = {ask(random, inputs=["refund"], temperature=1.5, top_k=50, top_p=0.9)[0]["text"] for _ in range(4)}
    assert len(drawn) > 1
