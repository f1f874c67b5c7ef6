import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from configs.schema.serving import ServingSpec
from serving.classifier import Classifier
from serving.endpoint import create_app, create_catalogue
from serving.labelling import Labelling, Waiting
from serving.relay import Parts
from serving.runtime import load_bundle
from serving.service import Answer, Caller, InService, Release, Route
from tests.tiny.bundles import LABELS, write_tiny_bundle

SECRET = "my-card-is-4111"
SPEC = ServingSpec.model_validate({"max_inputs": 8, "max_body_bytes": 2048, "request_timeout_s": 5})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    folder: Path = tmp_path_factory.mktemp("app") / "bundle"
    write_tiny_bundle(folder)
    return load_bundle(folder)


RELEASE = Release(bundle="a", name="t", version="1")


@pytest.fixture
def client(classifier: Classifier) -> Iterator[TestClient]:
    with client_of(Labelling(classifier, RELEASE, SPEC)) as made:
        yield made


def client_of(model: InService, spec: ServingSpec = SPEC) -> TestClient:
    return TestClient(create_app("intent", spec, lambda: model), raise_server_exceptions=False)


class Answering:
    """A model in service that answers as it is told."""

    def __init__(self, answer: Route) -> None:
        self.routes = {"": answer}

    def running_s(self) -> float:
        return 0.0


async def never(body: bytes, caller: Caller) -> Answer:
    raise AssertionError


def assert_problem(response, status: int, detail: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["type"], body["status"]) == ("about:blank", status)
    assert detail in body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert SECRET not in response.text


def test_predictions_come_in_order_and_equal_the_runtimes(client: TestClient, classifier: Classifier):
    texts = ["where is my order", "", "refund now"]
    response = client.post("/v1/intent", json={"inputs": texts})
    assert response.status_code == 200
    assert response.json() == {"model": {"name": "t", "version": "1"}, "predictions": classifier.predict(texts)}


def test_scores_of_all_labels_come_on_request(client: TestClient):
    (prediction,) = client.post("/v1/intent", json={"inputs": ["refund"], "scores": True}).json()["predictions"]
    assert list(prediction["scores"]) == LABELS
    assert sum(prediction["scores"].values()) == pytest.approx(1)


def test_details_say_what_the_model_could_not_read(client: TestClient):
    texts = ["refund please", "возврат please", "now " * 20, ""]
    predictions = client.post("/v1/intent", json={"inputs": texts, "details": True}).json()["predictions"]
    assert [(each["unknown"], each["cut"]) for each in predictions] == [(0, False), (0.5, False), (0, True), (0, False)]
    assert all(each.keys() == {"label", "score", "unknown", "cut", "ms"} and each["ms"] > 0 for each in predictions)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 400, "not JSON"),
        (b"{" + SECRET.encode(), 400, "not JSON in UTF-8: line 1 column"),
        (b'{"inputs": ["\xff"]}', 400, "not JSON"),
        (b'{"inputs": ["' + SECRET.encode() + b'\\ud800"]}', 400, "not JSON"),
        (b"[" * 2000, 400, "not JSON"),
        (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", 400, "not JSON"),
        (b'{"inputs": NaN}', 400, "holds NaN"),
        (b'{"inputs": [NaN]}', 400, "holds NaN"),
        (b'{"inputs": [' + b"9" * 1900 + b"]}", 400, "more than 64 bits"),
        (b"[]", 422, "must be an object"),
        (b"null", 422, "must be an object"),
        (b'"my-card-is-4111"', 422, "must be an object"),
        (b"{}", 422, "inputs must be a list"),
        (b'{"inputs": "my-card-is-4111"}', 422, "inputs must be a list"),
        (b'{"inputs": null}', 422, "inputs must be a list"),
        (b'{"inputs": {}}', 422, "inputs must be a list"),
        (b'{"inputs": []}', 422, "inputs must be a list of at least one input"),
        (b'{"inputs": ["a", 1]}', 422, "input 1 is neither"),
        (b'{"inputs": ["a", {"text": "my-card-is-4111"}]}', 422, "input 1 is not a text"),
        (b'{"inputs": [{"text": "a", "text_pair": "b", "my-card-is-4111": 1}]}', 422, "input 0 is not a text"),
        (b'{"inputs": [["a"], {"text": "my-card-is-4111"}]}', 422, "input 0 is not a text"),
        (b'{"inputs": [{"text": "my-card-is-4111", "text_pair": "b"}]}', 422, "input 0 is not a text"),
        (b'{"inputs": ["a"], "scores": "my-card-is-4111"}', 422, "scores must be true or false"),
        (b'{"inputs": ["a"], "details": "my-card-is-4111"}', 422, "details must be true or false"),
        (b'{"inputs": ["a"], "my-card-is-4111": 1}', 422, "unknown key; known are inputs, scores and details"),
        (b'{"inputs": ["a","a","a","a","a","a","a","a","my-card-is-4111"]}', 422, "9 inputs; send at most 8"),
    ],
)
def test_a_body_that_is_wrong_gets_a_problem_that_does_not_repeat_it(client: TestClient, body, status, detail):
    assert_problem(client.post("/v1/intent", content=body), status, detail)


@pytest.mark.parametrize(
    "body", [{}, {"inputs": None}, {"inputs": "a text"}, {"inputs": []}, {"inputs": [], "scores": True}]
)
def test_a_question_of_nothing_is_a_line_and_reaches_no_model(body: dict):
    with client_of(Labelling(cast(Classifier, None), RELEASE, SPEC)) as client:
        response = client.post("/v1/intent", json=body)
    assert_problem(response, 422, "")
    assert response.json()["detail"] == "inputs must be a list of at least one input"


def test_as_many_inputs_as_are_allowed_are_answered_and_one_more_is_not(client: TestClient):
    most = SPEC.max_inputs
    assert len(client.post("/v1/intent", json={"inputs": ["a"] * most}).json()["predictions"]) == most
    assert len(client.post("/v1/intent", json={"inputs": ["a"]}).json()["predictions"]) == 1
    assert_problem(
        client.post("/v1/intent", json={"inputs": ["a"] * (most + 1)}), 422, f"{most + 1} inputs; send at most"
    )


def test_a_body_of_as_many_bytes_as_are_allowed_is_read_and_one_more_is_not(client: TestClient):
    body = b'{"inputs": ["a"]}'
    assert client.post("/v1/intent", content=body.ljust(SPEC.max_body_bytes)).status_code == 200
    assert_problem(
        client.post("/v1/intent", content=body.ljust(SPEC.max_body_bytes + 1)), 413, "larger than 2048 bytes"
    )


def test_attributes_are_answered_as_their_text(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle", attributes=True)
    classifier = load_bundle(tmp_path / "bundle")
    with client_of(Labelling(classifier, RELEASE, SPEC)) as client:
        given = [{"order": "refund"}, [["order", "refund"]], "order: refund"]
        response = client.post("/v1/intent", json={"inputs": given})
        assert response.json()["predictions"] == classifier.predict(["order: refund"]) * 3
        for value, words in ((True, "input 1: an attribute is"), (None, "input 1: no attribute"), ([], "input 1: no")):
            assert_problem(client.post("/v1/intent", json={"inputs": ["a", {SECRET: value}]}), 422, words)


def test_a_null_byte_and_a_text_of_any_script_are_answered(client: TestClient):
    assert client.post("/v1/intent", json={"inputs": ["a\x00b", "возврат 返金 🙂"]}).status_code == 200


@pytest.mark.parametrize("declared", ["10", "999999", None])
def test_a_body_is_counted_whatever_its_length_header_says(declared: str | None):
    chunks = [{"type": "http.request", "body": b" " * 1500, "more_body": True} for _ in range(1000)]
    given = len(chunks)
    headers = [(b"content-length", declared.encode())] if declared else []
    sent = ask_asgi(create_app("intent", SPEC, lambda: Answering(never)), chunks, headers)
    assert sent[0]["status"] == 413
    assert b"larger than 2048 bytes" in sent[1]["body"]
    assert given - len(chunks) == 2  # the rest was never read


def test_serve_mounts_the_app_at_its_own_path_and_no_redirect_follows(client: TestClient):
    async def answer(body: bytes, caller: Caller) -> Answer:
        return {}

    body = [{"type": "http.request", "body": b'{"inputs": ["a"]}', "more_body": False}]
    sent = ask_asgi(create_app("intent", SPEC, lambda: Answering(answer)), body, [], root_path="/v1/intent")
    assert sent[0]["status"] == 200


def test_the_id_that_the_proxy_gave_is_kept_and_not_sent_twice(client: TestClient):
    response = client.post("/v1/intent", content=b"{", headers={"x-request-id": "abc-1"})
    assert response.json()["request_id"] == "abc-1"
    assert "x-request-id" not in response.headers  # Serve's proxy adds it


def test_other_paths_and_methods_get_a_problem(client: TestClient):
    response = client.get("/v1/intent")
    assert_problem(response, 405, "Method Not Allowed")
    assert response.headers["allow"] == "POST"
    assert_problem(client.get(f"/v1/intent/{SECRET}"), 404, "Not Found")
    assert_problem(client.get("/docs"), 404, "Not Found")


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_an_unforeseen_error_tells_only_the_request_id(kind: type[Exception], caplog: pytest.LogCaptureFixture):
    async def broken(body: bytes, caller: Caller) -> Answer:
        raise kind(f"cannot handle {body!r}")

    with client_of(Answering(broken)) as client:
        response = client.post("/v1/intent", json={"inputs": [SECRET]})
    assert_problem(response, 500, "quote the request id")
    assert response.json()["request_id"] in caplog.text
    assert kind.__name__ in caplog.text
    assert SECRET not in caplog.text


def test_a_request_that_takes_too_long_gets_a_problem_that_says_how_long_it_took():
    async def slow(body: bytes, caller: Caller) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    with client_of(Answering(slow), ServingSpec.model_validate({"request_timeout_s": 0.01})) as client:
        response = client.post("/v1/intent", json={"inputs": ["a"]}, headers={"x-request-timeout-seconds": "0"})
    assert_problem(response, 504, "no answer within 0.01 s")


def test_a_body_that_does_not_end_is_given_up():
    async def nothing() -> dict:
        return await asyncio.Future()

    app = create_app("intent", ServingSpec.model_validate({"request_timeout_s": 0.01}), lambda: Answering(never))
    start, body = ask_asgi(app, [{"type": "http.request", "body": b"{", "more_body": True}], [], then=nothing)
    assert start["status"] == 408
    assert json.loads(body["body"])["detail"] == "the body was not sent within 0.01 s"


def catalogue_of(models: list[dict]) -> TestClient:
    """A catalogue whose services are not there."""

    def relay(*_: object) -> Parts:
        raise AssertionError

    return TestClient(create_catalogue(lambda: models, SPEC, relay), raise_server_exceptions=False)


def test_the_catalogue_lists_models_and_names_the_services_to_who_asks_for_another():
    models = [{"service": "intent", "name": "t", "version": "1", "task": "classify", "created": 7, "labels": LABELS}]
    data = [{"id": "intent", "object": "model", "created": 7, "owned_by": "slimcart"}]
    with catalogue_of(models) as client:
        assert client.get("/v1/models").json() == {"object": "list", "models": models, "data": data}
        assert client.get("/healthz").json() == {"status": "ok"}
        assert_problem(client.post(f"/v1/{SECRET}", content=b"x" * 9999), 404, "services: /v1/intent")


def test_a_catalogue_of_nothing_is_an_empty_list():
    with catalogue_of([]) as client:
        assert client.get("/v1/models").json() == {"object": "list", "models": [], "data": []}
        assert_problem(
            client.post("/v1/intent", json={"inputs": ["a"]}), 404, "nothing answers here; services: none yet"
        )


def test_a_swapped_model_answers_what_it_was_asked(tmp_path: Path, classifier: Classifier):
    write_tiny_bundle(tmp_path / "other", seed=1)
    other = load_bundle(tmp_path / "other")
    models = iter(
        [Labelling(classifier, RELEASE, SPEC), Labelling(other, RELEASE.model_copy(update={"version": "2"}), SPEC)]
    )
    app = create_app("intent", SPEC, lambda: next(models))
    with TestClient(app) as client:
        answers = [client.post("/v1/intent", json={"inputs": ["refund"]}).json() for _ in range(2)]
    assert [each["model"]["version"] for each in answers] == ["1", "2"]
    assert [each["predictions"] for each in answers] == [each.predict(["refund"]) for each in (classifier, other)]


def test_what_one_request_asks_for_no_other_gets(classifier: Classifier):
    together = Labelling(classifier, RELEASE, SPEC).predict_together
    asked = [{"all_scores": True}, {"details": True}, {}, {"all_scores": True, "details": True}]
    got = [set(each) for (each,) in together([Waiting(["refund"], **wanted) for wanted in asked])]
    plain, scores, details = {"label", "score"}, {"scores"}, {"unknown", "cut", "ms"}
    assert got == [plain | scores, plain | details, plain, plain | scores | details]


def test_requests_that_come_while_a_batch_runs_are_answered_together():
    began, go_on = threading.Event(), threading.Event()
    sizes: list[int] = []

    class Slow:
        def rows(self, inputs: list[str]) -> list[str]:
            return inputs

        def predict(self, rows: list[str], all_scores: bool, details: bool) -> list[dict]:
            sizes.append(len(rows))
            began.set()
            assert go_on.wait(10)
            return [{"label": row, "score": 1.0} for row in rows]

    async def ask_all() -> list[Answer]:
        answer = Labelling(cast(Classifier, Slow()), RELEASE, SPEC.model_copy(update={"max_batch_size": 32})).routes[""]

        async def ask(text: str) -> Answer:
            return await answer(json.dumps({"inputs": [text]}).encode(), caller)

        caller = Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + 10)
        first = asyncio.create_task(ask("first"))
        await asyncio.to_thread(began.wait, 10)
        rest = []
        for index in range(10):  # one by one: Serve's own would make ten batches of them
            rest.append(asyncio.create_task(ask(str(index))))
            await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, *rest)

    answers = asyncio.run(ask_all())
    bodies = [cast(dict, answer) for answer in answers]
    assert [body["predictions"][0]["label"] for body in bodies] == ["first", *map(str, range(10))]
    assert sizes == [1, 10]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"host": "0.0.0.0"}, "not a loopback address"),
        ({"host": "shop.example"}, "not a loopback address"),
        ({"keys": f"sc_{'0' * 12}_{'1' * 64}"}, "this is a key, which no recipe may hold"),
        ({"service": "Intent"}, "no service name"),
        ({"service": "models"}, "taken by a route of all services"),
        ({"max_ongoing_requests": 8}, "a batch never fills; raise it to 32"),
        ({"replica": 2}, "Extra inputs"),
        ({"autoscaling": {"min": 3, "max": 2}}, "min=3 is more than max=2"),
        ({"autoscaling": {}, "replicas": 2}, "replicas=2 means nothing with autoscaling"),
        ({"autoscaling": {"target_ongoing": 200}}, "which a replica never exceeds, so none would come"),
    ],
)
def test_serving_settings_that_cannot_work_are_refused_with_what_would(fields: dict, reason: str):
    with pytest.raises(ValidationError, match=reason):
        ServingSpec.model_validate(fields)


def test_every_serving_field_says_what_it_means():
    assert all(field.description for field in ServingSpec.model_fields.values())


def ask_asgi(
    app,
    messages: list[dict],
    headers: list[tuple[bytes, bytes]],
    root_path: str = "",
    then: Callable[[], Awaitable[dict]] | None = None,
) -> list[dict]:
    """What the app sends for one POST whose body arrives as `messages` (taken from the list as they are read), and
    `then`."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/intent",
        "raw_path": b"/v1/intent",
        "query_string": b"",
        "root_path": root_path,
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    sent: list[dict] = []

    async def receive() -> dict:
        return await then() if then and not messages else messages.pop(0)

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent
