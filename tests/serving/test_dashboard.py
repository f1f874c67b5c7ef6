import json
from typing import Any

import pytest
import requests

from configs.schema.serving import ServingSpec
from serving import dashboard as dashboards
from serving.deployment import DeployError
from tests.processes import free_port


@pytest.mark.parametrize(("own", "limit"), [(9.9, 10), (60, None)])
def test_requests_may_take_less_than_serve_lets_them(monkeypatch: pytest.MonkeyPatch, own: float, limit: float | None):
    check_beside(monkeypatch, limit, own)


@pytest.mark.parametrize("own", [10, 30])
def test_a_timeout_that_the_running_serve_would_cut_is_refused_with_both(monkeypatch: pytest.MonkeyPatch, own: float):
    said = rf"^serving\.request_timeout_s={own}: Serve ends requests after 10 s, [^\n]*; set less than 10, or make down"
    with pytest.raises(DeployError, match=said):
        check_beside(monkeypatch, 10, own)


def check_beside(monkeypatch: pytest.MonkeyPatch, limit: float | None, own: float) -> None:
    """Of a Serve that runs with `limit`."""
    running = {"host": "127.0.0.1", "port": 8000, "request_timeout_s": limit}
    monkeypatch.setattr(dashboards.Dashboard, "_details", lambda _: {"http_options": running, "applications": {}})
    dashboards.Dashboard("", {}, ServingSpec.model_validate({"request_timeout_s": own})).check()


@pytest.mark.parametrize(("hosts", "given"), [(["a"], {"RAY_A": "1"}), (["a", "b"], None)])
def test_only_a_serve_of_one_machine_is_given_settings_when_it_starts(
    monkeypatch: pytest.MonkeyPatch, hosts: list[str], given: dict[str, str] | None
):
    written: list[dict] = []

    def answer(_: object, method: str, url: str, **options: Any) -> requests.Response:
        made = requests.Response()
        body = {"data": {"hostNameList": hosts}} if "/nodes?" in url else {"applications": {}}
        made.status_code, made._content = 200, json.dumps(body).encode()
        if method == "PUT":
            written.append(options["json"])
        return made

    monkeypatch.setattr("requests.Session.request", answer)
    spec = ServingSpec.model_validate({"port": free_port(9700)})
    serve = dashboards.Dashboard("http://here", {}, spec, lambda _: {"RAY_A": "1"})
    serve.read()
    for _ in range(2):
        serve.write({"intent": {"name": "intent"}})
    told = [each.get("controller_options", {}).get("runtime_env", {}).get("env_vars") for each in written]
    assert told == [given, None, None]
    assert [len(each["applications"]) for each in written] == [0, 1, 1]


def test_a_dashboard_that_answers_no_json_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch):
    page = requests.Response()
    page.status_code, page._content = 200, b"<html>"
    monkeypatch.setattr("requests.Session.request", lambda *_, **__: page)
    with pytest.raises(DeployError, match=r"^http://here/api/serve/applications/ answers no JSON; [^\n]*$"):
        dashboards.Dashboard("http://here", {}, ServingSpec.model_validate({})).read()
