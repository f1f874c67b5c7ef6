"""What is sent of the pages: one file each that needs nothing else, and is carried wherever the code is."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from configs.schema.serving import ServingSpec
from serving.applications import CARRIED, CODE
from serving.endpoint import create_catalogue
from serving.relay import Parts
from tests.processes import ROOT

PAGES = ["/", "/docs"]


class Elements(HTMLParser):
    """Places that a page would load, and what stands in its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: dict[str, str] = {}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"], "the policy forbids these"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline[self._inside] = self.inline.get(self._inside, "") + data


@pytest.fixture(scope="module")
def client() -> TestClient:
    def relay(*_: object) -> Parts:
        raise AssertionError

    return TestClient(create_catalogue(list, ServingSpec.model_validate({}), relay))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_and_its_policy_lets_it_ask_this_server_alone(client: TestClient, path: str):
    sent = client.get(path)
    found = Elements(sent.text)
    assert sent.headers["content-type"] == "text/html; charset=utf-8"
    assert all(each.startswith("data:image/svg+xml,") for each in found.loaded)
    policy = dict(each.split(" ", 1) for each in sent.headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(found.inline[tag].encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy.pop("connect-src") == "'self'" and policy.pop("img-src") == "data:"
    assert policy.keys() == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert {*policy.values()} == {"'none'"}
    assert sent.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_writes_no_html_and_keeps_nothing(client: TestClient, path: str):
    script = Elements(client.get(path).text).inline["script"]
    writes = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\("
    keeps = r"localStorage|sessionStorage|indexedDB|cookie"
    assert not re.search(f"{writes}|{keeps}", script)


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json"])
def test_a_page_may_be_asked_for_its_head(client: TestClient, path: str):
    said = client.head(path)
    assert (said.status_code, said.content) == (200, b"")
    assert client.post(path).status_code == 404


def test_what_is_no_python_is_carried_to_replicas_and_into_packages():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    for package in CODE:
        for path in (ROOT / package).rglob("*.*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                name = path.relative_to(ROOT / package).as_posix()
                assert any(fnmatch(name, pattern) for pattern in packed[package]), path
                assert path.suffix in CARRIED or package == "configs", path
