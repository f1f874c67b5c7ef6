from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from configs.schema.serving import ServingSpec
from serving.endpoint import create_app
from serving.reply import Replies, Templates, load_reply, with_replies
from serving.replying import Replying
from serving.service import Release, put_in_service
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.services import SERVICE, answering

SECRET = "my-card-is-4111"
SPEC = ServingSpec.model_validate({"max_inputs": 8, "max_body_bytes": 8192, "request_timeout_s": 10})
TEXTS = ["where is my order", "refund now", "cancel it please"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers everything, each class with its name and two placeholders."""
    folder = tmp_path_factory.mktemp("replying")
    write_tiny_bundle(folder / "classifier")
    own = {label: [f"{label}: {{{{Order Number}}}} at {{{{Site}}}}"] for label in LABELS}
    replies = Replies(Templates(fields=["Order Number"], templates=own), 0.0)
    with_replies(folder / "classifier", folder / "reply", replies, {})
    return folder / "reply"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The service behind a server of its own, over a real socket."""
    model = put_in_service(SERVICE, Release(bundle=str(folder), name="r", version="3"), SPEC)
    assert isinstance(model, Replying)
    with answering(create_app(SERVICE, SPEC, lambda: model)) as address:
        yield f"{address}/v1/{SERVICE}"


def ask(url: str, **body: Any) -> requests.Response:
    return requests.post(url, json=body, timeout=30)


def test_replies_are_those_of_the_runtime_with_the_fields_of_each_input(url: str, folder: Path):
    fields = [{"Order Number": 7, "Site": "s"}, {"Site": "t"}, {}]
    answer = ask(url, inputs=TEXTS, fields=fields)
    assert answer.status_code == 200, answer.text
    asked = [{"input": text, "fields": each} for text, each in zip(TEXTS, fields, strict=True)]
    assert answer.json() == {"model": {"name": "r", "version": "3"}, "predictions": load_reply(folder).predict(asked)}
    first, second, third = answer.json()["predictions"]
    assert first["text"].endswith(": 7 at s") and not first["handover"] and first["reason"] is None
    for each in (second, third):
        assert (each["text"], each["handover"]) == ("", True)
        assert each["reason"] == "the placeholder 'Order Number' has no value"


def test_fields_in_one_object_are_those_of_all_inputs(url: str):
    found = ask(url, inputs=TEXTS, fields={"Order Number": "1", "Site": "s"}).json()["predictions"]
    assert [each["text"] for each in found] == [f"{each['intent']}: 1 at s" for each in found]
    assert all(each["handover"] for each in ask(url, inputs=TEXTS).json()["predictions"])


def test_details_say_what_the_model_could_not_read(url: str):
    found = ask(url, inputs=["refund zzz", "now " * 20], fields={}, details=True).json()["predictions"]
    assert [(each["unknown"], each["cut"]) for each in found] == [(0.5, False), (0, True)]
    assert not {"unknown", "cut", "ms"} & ask(url, inputs=["refund"]).json()["predictions"][0].keys()


def test_a_value_with_braces_stays_as_it_is(url: str):
    (found,) = ask(url, inputs=TEXTS[:1], fields={"Order Number": "{{Site}}", "Site": "{{x}}"}).json()["predictions"]
    assert found["text"].endswith(": {{Site}} at {{x}}")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"inputs": TEXTS, "fields": [{}]}, "1 fields for 3 inputs; send one object for each, or one for all"),
        ({"inputs": TEXTS, "fields": SECRET}, "fields must be an object of values"),
        ({"inputs": TEXTS, "fields": {SECRET: [SECRET]}}, "fields must be an object of values"),
        ({"inputs": TEXTS, "fields": {SECRET: True}}, "fields must be an object of values"),
        ({"inputs": TEXTS, "fields": {"a": "x" * 1001}}, "a value in fields is longer than 1000 characters"),
        ({"inputs": ["a"], "fields": {str(n): 1 for n in range(101)}}, "more than 100 fields for an input"),
        ({"inputs": [], "fields": {}}, "inputs must be a list of at least one input"),
        ({"inputs": ["a"] * 9}, "9 inputs; send at most 8"),
        ({"inputs": [{"text": SECRET}]}, "input 0 is not a text"),
        ({"inputs": ["a"], SECRET: 1}, "unknown key; known are inputs, fields and details"),
    ],
)
def test_a_body_that_is_wrong_gets_a_problem_that_does_not_repeat_it(url: str, body: dict[str, Any], detail: str):
    answer = ask(url, **body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]
    assert SECRET not in answer.text


def test_a_number_that_is_not_finite_and_a_body_that_is_too_long_are_refused(url: str):
    nan = requests.post(url, data=b'{"inputs": ["a"], "fields": {"a": NaN}}', timeout=30)
    assert nan.status_code == 400 and "holds NaN" in nan.json()["detail"]
    assert ask(url, inputs=["a" * 9000]).status_code == 413
