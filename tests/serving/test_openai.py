"""OpenAI's routes, asked by its own client: a decoder behind uvicorn, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from serving.bundle import BundleError
from serving.endpoint import create_app, create_catalogue
from serving.labelling import put_in_service
from serving.relay import Parts, through
from serving.service import InService, Release
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.services import SERVICE, SPEC, answering, events, writer

SECRET = "my-card-is-4111"
SCRIPT = "where is my order\nAusgeliefert 🙂🙂 am 订单 42. STOP Danke"
TEMPLATE = """\
{% for each in messages %}
{% if each.role == 'system' and not loop.first %}{{ raise_exception('system comes first: ' + each.content) }}{% endif %}
{{ each.role }}: {{ each.content }}
{% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}
"""
PROMPT = "where is it"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("openai")
    write_tiny_decoder(made / "script", SCRIPT.encode(), max_length=80)
    write_tiny_decoder(made / "chat", seed=5, template=TEMPLATE, max_length=120)
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    model = writer(folder / "script")
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        yield address


@pytest.fixture(scope="module")
def chat_address(folder: Path) -> Iterator[str]:
    model = writer(folder / "chat")
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        yield address


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> Iterator[str]:
    """The address of a catalogue of one service."""
    model: InService = writer(folder / "script")
    app = create_app(SERVICE, SPEC, lambda: model)
    known = [{"service": SERVICE, "name": "tiny", "version": "1", "task": "generate", "created": 7}]

    def relay(service: str, path: str, body: bytes, headers: Mapping[str, str]) -> Parts:
        return through(app, f"/v1/{service}/{path}", body, headers)

    with answering(create_catalogue(lambda: known, SPEC, relay)) as address:
        yield address


def client(address: str, service: str = f"/{SERVICE}") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1{service}", api_key="none", max_retries=0, timeout=20)


def own(address: str, **body: Any) -> dict[str, Any]:
    return requests.post(f"{address}/v1/{SERVICE}", json=body, timeout=20).json()["predictions"][0]


@pytest.fixture(scope="module", params=["service", "catalogue"])
def asked(request: pytest.FixtureRequest, address: str, catalogue: str) -> openai.OpenAI:
    """The client of a service, and the one of the catalogue."""
    return client(address) if request.param == "service" else client(catalogue, "")


def test_a_completion_is_what_the_service_writes(asked: openai.OpenAI, address: str):
    made = asked.completions.create(model=SERVICE, prompt=PROMPT, max_tokens=20, temperature=0, n=1)
    assert made.choices[0].text == own(address, inputs=[PROMPT], max_tokens=20)["text"]
    assert (made.choices[0].finish_reason, made.object, made.model) == ("length", "text_completion", SERVICE)
    assert made.usage and (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (
        12,
        20,
        32,
    )


def test_several_prompts_are_several_choices(asked: openai.OpenAI, address: str):
    made = asked.completions.create(model=SERVICE, prompt=["where", "is"], stop=["STOP"])
    assert [each.index for each in made.choices] == [0, 1]
    assert [each.text for each in made.choices] == [
        own(address, inputs=[text], stop="STOP")["text"] for text in ("where", "is")
    ]


def test_a_streamed_completion_joined_is_the_whole_one(asked: openai.OpenAI):
    whole = asked.completions.create(model=SERVICE, prompt=PROMPT)
    chunks = list(
        asked.completions.create(model=SERVICE, prompt=PROMPT, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(each.choices[0].text for each in chunks if each.choices) == whole.choices[0].text
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == whole.choices[0].finish_reason
    assert not chunks[-1].choices and chunks[-1].usage == whole.usage
    assert len({each.id for each in chunks}) == 1


def test_models_are_listed_below_a_service_and_by_the_catalogue(asked: openai.OpenAI):
    (model,) = asked.models.list()
    assert (model.id, model.object, model.owned_by) == (SERVICE, "model", "slimcart")


@pytest.mark.parametrize(
    ("body", "status", "field", "said"),
    [
        ({"model": "gpt"}, 404, "model", "model must be"),
        ({"prompt": [1, 2]}, 400, "prompt", "prompt must be a text"),
        ({"prompt": []}, 400, "prompt", "a list of 1 to 4 texts"),
        ({"prompt": SECRET * 9}, 400, None, "tokens; this model reads at most 79"),
        ({"n": 2}, 400, "n", "n is not supported here with this value"),
        ({"logprobs": 0}, 400, "logprobs", "logprobs is not supported"),
        ({"echo": True}, 400, "echo", "echo is not supported"),
        ({"user": SECRET}, 400, "user", "user is not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "presence_penalty is not supported"),
        ({"logit_bias": {"7": 1}}, 400, "logit_bias", "logit_bias is not supported"),
        ({"temperature": "1"}, 400, "temperature", "temperature must be a number"),
        ({"max_tokens": True}, 400, "max_tokens", "max_tokens must be a whole number"),
        ({"prompt": None}, 400, "prompt", "prompt must be a text"),
        ({SECRET: 1}, 400, None, "unknown key; known are max_tokens"),
        ({"max_tokens": 1000}, 400, "max_tokens", "max_tokens must be at most 60"),
        ({"seed": 3, "temperature": 1}, 400, "seed", "a seed would not give the same text again"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "needs stream"),
    ],
)
def test_what_is_wrong_is_said_as_openai_does(
    asked: openai.OpenAI, body: dict[str, Any], status: int, field: str | None, said: str
):
    with pytest.raises(openai.APIStatusError) as error:
        asked.post("/completions", body={"model": SERVICE, "prompt": "a", **body}, cast_to=object)
    refused = error.value
    assert (refused.status_code, refused.type, refused.param) == (status, "invalid_request_error", field)
    assert said in refused.message and SECRET not in refused.message


def test_what_asks_for_nothing_is_taken(asked: openai.OpenAI):
    neutral: dict[str, Any] = {
        "n": 1,
        "best_of": 1,
        "echo": False,
        "logprobs": None,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
    }
    neutral |= dict.fromkeys(["stop", "temperature", "stream", "seed", "user", "tools", "stream_options"])
    made: Any = asked.post(
        "/completions", body={"model": SERVICE, "prompt": "a", "max_tokens": 1, **neutral}, cast_to=object
    )
    assert made["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 7}', b'{"model": "reply", "prompt": "\xff"}'])
def test_a_body_that_is_no_request_is_said_as_openai_does(address: str, catalogue: str, body: bytes):
    for url in (f"{address}/v1/{SERVICE}/completions", f"{catalogue}/v1/completions"):
        response = requests.post(url, data=body, timeout=10)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
    large = requests.post(f"{catalogue}/v1/completions", data=b" " * 9999, timeout=10)
    assert (large.status_code, large.json()["error"]["message"]) == (413, "the body is larger than 4096 bytes")


def test_a_bundle_without_a_chat_template_says_so(asked: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="no chat template") as error:
        asked.chat.completions.create(model=SERVICE, messages=[{"role": "user", "content": SECRET}])
    assert error.value.param == "messages" and SECRET not in error.value.message


MESSAGES: list[Any] = [
    {"role": "system", "content": "short"},
    {"role": "user", "content": [{"type": "text", "text": "where is "}, {"type": "text", "text": "it"}]},
]


def test_a_conversation_is_answered_from_its_template(chat_address: str, folder: Path):
    made = client(chat_address).chat.completions.create(model=SERVICE, messages=MESSAGES, max_completion_tokens=30)
    model = writer(folder / "chat").generator
    prompt = model.prompt_of("system: short\nuser: where is it\nassistant:")
    ids = model.writer.complete([prompt], len(prompt) + 30)[0]
    assert made.choices[0].message.content == model.tokenizer.decode(ids).rstrip("\ufffd")
    assert made.choices[0].message.role == "assistant"
    assert made.usage and made.usage.prompt_tokens == len(prompt)


def test_a_streamed_conversation_joined_is_the_whole_one(chat_address: str):
    asked = client(chat_address).chat.completions
    whole = asked.create(model=SERVICE, messages=MESSAGES).choices[0]
    chunks = [each.choices[0] for each in asked.create(model=SERVICE, messages=MESSAGES, stream=True)]
    assert (chunks[0].delta.role, chunks[0].delta.content) == ("assistant", "")
    assert all(each.delta.role is None for each in chunks[1:])
    assert "".join(each.delta.content or "" for each in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages must be a list of messages"),
        ([{"role": "tool", "content": SECRET}], "messages must be"),
        ([{"role": "user", "content": f"{SECRET}<end>"}], "message 0 holds the text of a special token"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": SECRET}], "does not take their roles"),
        ([{"role": "user", "content": SECRET * 9}], "the conversation has"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}], "messages must be"),
    ],
)
def test_a_conversation_that_cannot_be_is_one_line(chat_address: str, messages: list[Any], said: str):
    with pytest.raises(openai.BadRequestError) as error:
        client(chat_address).chat.completions.create(model=SERVICE, messages=messages)
    assert said in error.value.message and SECRET not in error.value.message


@pytest.mark.parametrize("template", ["{{ bos_token }}{{ messages[0].content }}", "{% for", "{{ ''.__class__.mro() }}"])
def test_a_template_that_cannot_work_is_refused_when_it_is_loaded(tmp_path: Path, template: str):
    write_tiny_decoder(tmp_path / "bundle", seed=5, template=template)
    with pytest.raises(BundleError, match=r"chat\.jinja: "):
        writer(tmp_path / "bundle")


def test_a_classifier_has_no_such_routes(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    model = put_in_service(SERVICE, Release(bundle=str(tmp_path / "bundle"), name="tiny", version="1"), SPEC)
    refusal = pytest.raises(openai.NotFoundError, match="the model of this service does not answer here")
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address, refusal:
        client(address).completions.create(model=SERVICE, prompt="a")


def test_events_end_with_done(address: str):
    body = {"model": SERVICE, "prompt": "a", "stream": True, "max_tokens": 3}
    *_, last = events(requests.post(f"{address}/v1/{SERVICE}/completions", json=body, timeout=10))
    assert last == "[DONE]"
