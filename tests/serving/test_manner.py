"""Style and length as fields of a request, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from serving.bundle import BundleError, read_bundle
from serving.endpoint import create_app
from serving.manner import in_manner
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.services import SERVICE, SPEC, answering, writer

TAUGHT = {"style": ["formal", "plain"], "length": ["short", "medium", "long"]}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, str]]:
    """URLs of the same decoder with and without styles and lengths."""
    made = tmp_path_factory.mktemp("manner")
    write_tiny_decoder(made / "taught", seed=3, manner=TAUGHT)
    write_tiny_decoder(made / "none", seed=3)
    models = {taught: writer(made / name) for taught, name in ((True, "taught"), (False, "none"))}
    with (
        answering(create_app(SERVICE, SPEC, lambda: models[True])) as with_it,
        answering(create_app(SERVICE, SPEC, lambda: models[False])) as without,
    ):
        yield {True: f"{with_it}/v1/{SERVICE}", False: f"{without}/v1/{SERVICE}"}


def text(url: str, given: str, **fields: str) -> str:
    answer = requests.post(url, json={"inputs": [given], "max_tokens": 20, **fields}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]["text"]


def test_what_is_asked_for_stands_before_the_prompt_as_in_training(services: dict[bool, str]):
    asked = text(services[True], "where", length="short", style="formal")
    assert asked == text(services[True], "style: formal; length: short\nwhere") != text(services[True], "where")
    assert text(services[True], "where", length="long") == text(services[False], "length: long\nwhere")
    assert in_manner("where", (("length", "long"),)) == "length: long\nwhere" and in_manner("where", ()) == "where"


@pytest.mark.parametrize(
    ("taught", "fields", "detail"),
    [
        (True, {"style": "my-card-is-4111"}, "style must be one of formal, plain"),
        (True, {"length": "Short"}, "length must be one of short, medium, long"),
        (True, {"length": 3}, "length must be a text"),
        (False, {"style": "formal"}, "style must be left out: the rows of this model taught none"),
    ],
)
def test_what_no_row_taught_is_refused_by_name(
    services: dict[bool, str], taught: bool, fields: dict[str, Any], detail: str
):
    answer = requests.post(services[taught], json={"inputs": ["where"], **fields}, timeout=20)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


def test_only_a_decoder_that_is_known_to_read_them_says_what_can_be_asked_for(tmp_path: Path):
    assert read_bundle(_made(tmp_path / "taught", TAUGHT)).manner == TAUGHT
    with pytest.raises(BundleError, match="manner"):
        _made(tmp_path / "other", {"tone": ["formal", "plain"]})


def _made(folder: Path, manner: dict[str, list[str]]) -> Path:
    write_tiny_decoder(folder, manner=manner)
    return folder
