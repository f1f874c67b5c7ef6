"""Services on the shared cluster: what customers get while versions come, go and break."""

import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import openai
import psutil
import pytest
import requests

from cluster import session
from cluster.processes import listening, members
from cluster.record import Cluster
from configs.schema.serving import RolloutSpec, ServingSpec
from serving import dashboard as dashboards
from serving import ingress
from serving.applications import application, package_code
from serving.cascade import Cascade, join
from serving.change import tell
from serving.deployment import DeployError, begin, deploy, end, undeploy
from serving.keys import add, revoke
from serving.rollout import together, verdict
from serving.runtime import load_bundle
from tests.processes import free_port, named
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.services import events

TEXTS = ["where is my order", "", "refund now", "please cancel it", "unheard words"]


@dataclass(frozen=True)
class Dashboard:
    """A running cluster as a deployer sees it."""

    url: str
    headers: dict[str, str]

    def end_serve(self) -> None:
        """Serve listens on the port of its first application until it ends; others may deploy on another."""
        requests.delete(f"{self.url}/api/serve/applications/", headers=self.headers, timeout=60).raise_for_status()


@pytest.fixture(scope="module")
def dashboard(cluster: Cluster, on_cluster: Cluster) -> Iterator[Dashboard]:
    session.connect()  # as a job does, which tells replicas what to run
    found = Dashboard(cluster.dashboard_url, {"Authorization": f"Bearer {cluster.token_path.read_text()}"})
    found.end_serve()
    with pytest.MonkeyPatch.context() as patch:
        for name in (ingress.FOLDER, *ingress.FALLBACK_PORTS):  # a job has these of its cluster
            patch.setenv(name, cluster.environment()[name])
        yield found
    found.end_serve()


@dataclass(frozen=True)
class Shop:
    """Where a test deploys to, with two bundles and a third that breaks after it was checked."""

    dashboard: Dashboard
    spec: ServingSpec
    folder: Path
    code_uri: str

    def bundle(self, name: str, seed: int) -> Path:
        if not (self.folder / name).exists():
            write_tiny_bundle(self.folder / name, seed=seed)
        return self.folder / name

    def application(self, service: str, bundle: Path, version: str) -> dict:
        return application(self.spec, service, bundle, "tiny", version, self.code_uri, self.folder)

    def deploy(self, made: dict, timeout_s: float = 90) -> str:
        return deploy(self.dashboard.url, self.dashboard.headers, self.spec, made, self.folder, timeout_s=timeout_s)

    def applications(self) -> dict[str, dict]:
        url = f"{self.dashboard.url}/api/serve/applications/"
        return requests.get(url, headers=self.dashboard.headers, timeout=10).json()["applications"]

    def replicas(self, service: str) -> list[dict]:
        return self.applications()[service]["deployments"]["Service"]["replicas"]


@pytest.fixture(scope="module")
def shop(dashboard: Dashboard, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("deployment")
    spec = ServingSpec.model_validate({"port": free_port(9700), "graceful_shutdown_timeout_s": 5})
    return Shop(dashboard, spec, folder, package_code(folder / "code"))


@pytest.fixture(scope="module")
def endpoint(shop: Shop) -> str:
    """Version 1 of the service `intent`."""
    return shop.deploy(shop.application("intent", shop.bundle("one", seed=1), "1"))


def ask(endpoint: str, texts: list[str]) -> dict:
    response = requests.post(endpoint, json={"inputs": texts, "scores": True}, timeout=15)
    assert response.status_code == 200, response.text
    return response.json()


def assert_answers_are_those_of(answer: dict, bundle: Path) -> None:
    expected = load_bundle(bundle).predict(TEXTS, all_scores=True)
    assert [each["label"] for each in answer["predictions"]] == [each["label"] for each in expected]
    for given, wanted in zip(answer["predictions"], expected, strict=True):
        assert given["scores"] == pytest.approx(wanted.get("scores"), abs=1e-6)


class Customer(threading.Thread):
    """Asks without a pause until told to stop; counts what it got."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._enough = threading.Event()
        self._seen = threading.Condition()
        self.got: Counter[str] = Counter()

    def run(self) -> None:
        with requests.Session() as session:
            while not self._enough.is_set():
                try:
                    response = session.post(self._endpoint, json={"inputs": ["refund"]}, timeout=15)
                    outcome = response.json()["model"]["version"] if response.ok else f"HTTP {response.status_code}"
                except requests.RequestException as error:
                    outcome = type(error).__name__
                with self._seen:
                    self.got[outcome] += 1
                    self._seen.notify_all()

    def wait_for(self, outcome: str) -> None:
        with self._seen:
            assert self._seen.wait_for(lambda: self.got[outcome] > 0, timeout=15), self.got

    def stop(self) -> Counter[str]:
        self._enough.set()
        self.join(timeout=30)
        return self.got


def test_a_taken_port_is_refused_before_serve_starts(dashboard: Dashboard, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = ServingSpec.model_validate({"port": taken.getsockname()[1]})
        made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", package_code(tmp_path), tmp_path)
        with pytest.raises(DeployError, match=r"in use; choose another serving\.port"):
            deploy(dashboard.url, dashboard.headers, spec, made, tmp_path)


def test_a_wrong_token_is_refused_in_one_line(dashboard: Dashboard, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    spec = ServingSpec.model_validate({})
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", package_code(tmp_path), tmp_path)
    with pytest.raises(DeployError, match="refused the token"):
        deploy(dashboard.url, {"Authorization": "Bearer " + "0" * 64}, spec, made, tmp_path)


def test_answers_over_http_are_ordered_and_equal_the_runtimes(shop: Shop, endpoint: str):
    answer = ask(endpoint, TEXTS)
    assert answer["model"] == {"name": "tiny", "version": "1"}
    assert_answers_are_those_of(answer, shop.bundle("one", seed=1))


def test_many_customers_at_once_each_get_their_own_answers(shop: Shop, endpoint: str):
    from concurrent.futures import ThreadPoolExecutor

    alone = load_bundle(shop.bundle("one", 1)).predict(TEXTS)
    expected = {each["score"]: text for text, each in zip(TEXTS, alone, strict=True)}
    with ThreadPoolExecutor(8) as pool:
        asked = [TEXTS[index % len(TEXTS)] for index in range(80)]
        answers = list(pool.map(lambda text: ask(endpoint, [text] * 40)["predictions"], asked))
    for text, predictions in zip(asked, answers, strict=True):
        assert len(predictions) == 40
        nearest = {min(expected, key=lambda score: abs(score - each["score"])) for each in predictions}
        assert {expected[score] for score in nearest} == {text}


def test_the_catalogue_lists_the_model_and_answers_for_unknown_services(endpoint: str):
    root = endpoint.removesuffix("/v1/intent")
    (model,) = requests.get(f"{root}/v1/models", timeout=10).json()["models"]
    assert datetime.fromisoformat(model.pop("since")).timestamp() == model.pop("created") > 0
    assert (model.pop("share"), model.pop("evidence")) == (100, {"validation_accuracy": 0.9})
    told = {"service": "intent", "name": "tiny", "version": "1", "task": "classify", "kind": "single"}
    takes = {"pairs": False, "attributes": False, "conversations": False, "checked": False}
    limits = ServingSpec.model_validate({}).model_dump(include={"max_inputs", "max_body_bytes", "request_timeout_s"})
    assert model == {**told, **takes, "labels": LABELS, "limits": limits}
    assert requests.get(f"{root}/healthz", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{root}/", timeout=10).headers["content-type"].startswith("text/html")
    assert "/v1/intent" in requests.get(f"{root}/openapi.json", timeout=10).json()["paths"]
    unknown = requests.post(f"{root}/v1/intention", json={"inputs": ["a"]}, timeout=10)
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")
    assert "/v1/intent" in unknown.json()["detail"]


def test_a_wrong_body_is_a_problem_with_one_request_id(endpoint: str):
    response = requests.post(endpoint, data=b'{"inputs": ["my-card-is-4111', timeout=10)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert "4111" not in response.text
    too_large = requests.post(endpoint, data=b" " * 70_000, timeout=10)
    assert (too_large.status_code, too_large.headers["content-type"]) == (413, "application/problem+json")


def test_a_replica_runs_without_torch_from_the_packed_code(shop: Shop, endpoint: str):
    (replica,) = shop.replicas("intent")
    process = psutil.Process(replica["pid"])
    mapped = [each.path for each in process.memory_maps()]
    assert any("onnxruntime" in path for path in mapped)
    assert not [path for path in mapped if "/torch/" in path or "deepspeed" in path]
    assert sorted(each for each in os.listdir(process.cwd()) if not each.startswith(("_", "."))) == [
        "configs",
        "serving",
    ]


def haproxies(cluster: Cluster) -> list[psutil.Process]:
    """Those of the cluster."""
    assert cluster.ray
    return named("haproxy", members(cluster.ray))


def test_requests_come_in_through_haproxy_and_all_of_serve_listens_on_loopback_only(
    shop: Shop, endpoint: str, cluster: Cluster
):
    assert ("127.0.0.1", shop.spec.port) in listening(haproxies(cluster))
    assert cluster.ray
    sockets = listening(members(cluster.ray))
    assert {address.removeprefix("::ffff:") for address, _ in sockets} <= {"127.0.0.1", "::1"}
    assert cluster.ports.serve_http in {port for _, port in sockets}


def test_nobody_but_its_owner_may_enter_where_haproxy_takes_commands(endpoint: str, cluster: Cluster):
    folder = Path(cluster.environment()["SLIMCART_INGRESS"])
    (commands,) = folder.glob("*/admin")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (commands, commands.parent, folder)] == [0o600, 0o700, 0o700]


def test_headers_that_are_too_large_are_refused_and_the_next_request_is_answered(endpoint: str):
    large = requests.post(endpoint, json={"inputs": ["a"]}, headers={"X-Long": "4111" * 5000}, timeout=10)
    assert large.status_code == 400
    assert "4111" not in large.text
    assert ask(endpoint, ["refund"])["predictions"]


def test_another_port_is_refused_while_serve_runs(shop: Shop, endpoint: str):
    elsewhere = shop.spec.model_copy(update={"port": free_port(9700)})
    made = shop.application("intent", shop.bundle("one", seed=1), "1")
    with pytest.raises(DeployError, match=rf"already listens on 127\.0\.0\.1:{shop.spec.port}"):
        deploy(shop.dashboard.url, shop.dashboard.headers, elsewhere, made, shop.folder)


def test_a_second_version_takes_over_without_a_failed_request(shop: Shop, endpoint: str):
    customer = Customer(endpoint)
    customer.start()
    customer.wait_for("1")
    before = [each["pid"] for each in shop.replicas("intent")]
    shop.deploy(shop.application("intent", shop.bundle("two", seed=2), "2"))
    customer.wait_for("2")
    got = customer.stop()
    assert set(got) == {"1", "2"}
    assert [each["pid"] for each in shop.replicas("intent")] == before  # no process more
    answer = ask(endpoint, TEXTS)
    assert answer["model"]["version"] == "2"
    assert_answers_are_those_of(answer, shop.bundle("two", seed=2))


def test_a_version_that_breaks_is_not_deployed_and_the_one_before_keeps_answering(shop: Shop, endpoint: str):
    broken = shop.application("intent", shop.bundle("three", seed=3), "3")
    (shop.folder / "three" / "model.onnx").write_bytes(b"bit rot")
    before = ask(endpoint, ["refund"])["model"]
    customer = Customer(endpoint)
    customer.start()
    with pytest.raises(DeployError) as failed:
        shop.deploy(broken)
    assert set(customer.stop()) == {before["version"]}
    first, *_ = str(failed.value).splitlines()
    assert first.startswith("intent: tiny version 3 was not deployed: BundleError: ")
    assert "model.onnx" in first
    assert first.endswith(f"; it goes on with version {before['version']}")
    assert ask(endpoint, ["refund"])["model"] == before
    (listed,) = requests.get(endpoint.replace("/v1/intent", "/v1/models"), timeout=10).json()["models"]
    assert listed["version"] == before["version"]


@pytest.mark.often
def test_a_replica_that_dies_at_the_same_time_does_not_end_a_change(shop: Shop, endpoint: str):
    (replica,) = shop.replicas("intent")
    psutil.Process(replica["pid"]).kill()
    made = shop.application("intent", shop.bundle("two", seed=2), "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.change.DEAD_S", -1.0)
        with pytest.raises(DeployError, match="a replica died"):
            shop.deploy(made)
    shop.deploy(made)
    assert ask(endpoint, TEXTS)["model"]["version"] == "2"
    shop.deploy(shop.application("intent", shop.bundle("one", seed=1), "1"))


@pytest.mark.parametrize("promoted", [True, False])
def test_a_canary_answers_customers_and_its_end_fails_none(shop: Shop, endpoint: str, promoted: bool):
    rollout = RolloutSpec.model_validate({"canary": 50, "requests": 20})
    spec = shop.spec.model_copy(update={"rollout": rollout})
    before = ask(endpoint, ["refund"])["model"]["version"]
    made = shop.application("intent", shop.bundle("four", seed=4), "4" if promoted else "5")
    given = (shop.dashboard.url, shop.dashboard.headers, spec)
    customer = Customer(endpoint)
    customer.start()
    running = begin(*given, made, shop.folder, lambda _: None)
    assert running and running.candidate
    while (found := verdict(counts := together(each.counts for each in tell("intent", 20)), rollout, 60)) is None:
        customer.wait_for(made["deployments"][0]["user_config"]["version"])
    assert found.promoted and counts.errors == 0 and counts.requests >= 20
    assert end(*given, "intent", shop.folder, promoted, running.number) == running
    tried = running.candidate.release.version
    stays = tried if promoted else before
    assert {ask(endpoint, ["refund"])["model"]["version"] for _ in range(20)} == {stays}
    got = customer.stop()
    assert set(got) == {before, tried}
    assert got[before] and got[tried] >= 20


def test_a_second_service_that_asks_for_keys_is_deployed_beside_the_first_and_taken_away_again(
    shop: Shop, endpoint: str, cluster: Cluster, tmp_path: Path
):
    (pid,) = (each["pid"] for each in shop.replicas("intent"))
    key = add(tmp_path / "keys.json", "one", ["review"])
    bearer = {"Authorization": f"Bearer {key}"}
    closed = shop.spec.model_copy(update={"keys": str(tmp_path / "keys.json")})
    given = (shop.bundle("one", seed=1), "tiny", "7", shop.code_uri, shop.folder)
    second = shop.deploy(application(closed, "review", *given))
    body = {"inputs": TEXTS}
    assert requests.post(second, json=body, headers=bearer, timeout=15).json()["model"]["version"] == "7"
    refused = requests.post(second, json=body, timeout=15)
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert ask(endpoint, TEXTS)["predictions"]
    assert [each["pid"] for each in shop.replicas("intent")] == [pid]
    models = endpoint.replace("/v1/intent", "/v1/models")
    assert requests.get(models, timeout=10).status_code == 401
    assert [each["service"] for each in requests.get(models, headers=bearer, timeout=10).json()["models"]] == ["review"]
    revoke(tmp_path / "keys.json", key.split("_")[1])
    assert requests.post(second, json=body, headers=bearer, timeout=15).status_code == 401
    logs = [each for each in cluster.temp.rglob("*") if "logs" in each.parts and each.is_file()]
    assert [each for each in logs if each.name.startswith("replica_review")]
    assert not [each for each in logs if key.rpartition("_")[2].encode() in each.read_bytes()]
    # Serve would let its replica stay for 30 s.
    undeploy(shop.dashboard.url, shop.dashboard.headers, shop.spec, "review", shop.folder, timeout_s=25)
    assert "review" not in shop.applications()
    assert [each["service"] for each in requests.get(models, timeout=10).json()["models"]] == ["intent"]
    assert requests.post(second, json={"inputs": TEXTS}, timeout=10).status_code == 404
    models = requests.get(endpoint.replace("/v1/intent", "/v1/models"), timeout=10).json()["models"]
    assert [each["service"] for each in models] == ["intent"]
    with pytest.raises(DeployError, match=r"^review: not deployed; services: intent$"):
        undeploy(shop.dashboard.url, shop.dashboard.headers, shop.spec, "review", shop.folder)
    assert ask(endpoint, ["refund"])["predictions"]
    assert [each["pid"] for each in shop.replicas("intent")] == [pid]


@pytest.mark.parallel
def test_replicas_come_with_requests_go_to_none_and_come_again(shop: Shop, endpoint: str):
    def put(version: str, seed: int, least: int) -> str:
        scaling = {"min": least, "max": 2, "target_ongoing": 1, "upscale_delay_s": 0, "downscale_delay_s": 1}
        fields = shop.spec.model_dump() | {"autoscaling": scaling, "max_batch_size": 1}
        spec = ServingSpec.model_validate(fields)
        made = application(spec, "elastic", shop.bundle(version, seed), "tiny", version, shop.code_uri, shop.folder)
        return deploy(shop.dashboard.url, shop.dashboard.headers, spec, made, shop.folder, timeout_s=90)

    def wait_for(replicas: int) -> None:
        until = time.monotonic() + 150
        while len(shop.replicas("elastic")) != replicas:
            assert time.monotonic() < until, shop.replicas("elastic")
            time.sleep(1)

    elastic = put("1", seed=1, least=1)
    customers = [Customer(elastic) for _ in range(6)]
    for each in customers:
        each.start()
    wait_for(2)
    assert {outcome for each in customers for outcome in each.stop()} == {"1"}
    wait_for(1)
    put("1", seed=1, least=0)
    wait_for(0)
    assert put("2", seed=2, least=0) == elastic  # where no replica runs one starts, and has answered
    assert ask(elastic, TEXTS)["model"]["version"] == "2"
    undeploy(shop.dashboard.url, shop.dashboard.headers, shop.spec, "elastic", shop.folder)


def test_a_cascade_answers_over_http_as_it_does_alone(shop: Shop, endpoint: str):
    parts = shop.bundle("one", seed=1), shop.bundle("two", seed=2)
    threshold = sorted(load_bundle(parts[0]).scores(TEXTS).max(axis=1))[2]
    join(shop.folder / "cascade", *parts, float(threshold))
    alone = load_bundle(shop.folder / "cascade")
    assert isinstance(alone, Cascade) and 0 < alone.share_first(TEXTS) < 1
    answer = ask(shop.deploy(shop.application("triage", shop.folder / "cascade", "4")), TEXTS)
    assert answer["model"] == {"name": "tiny", "version": "4"}
    assert_answers_are_those_of(answer, shop.folder / "cascade")
    undeploy(shop.dashboard.url, shop.dashboard.headers, shop.spec, "triage", shop.folder)


def test_a_decoder_answers_over_http_at_once_as_events_and_to_openais_client(shop: Shop, endpoint: str):
    script = "a\nAusgeliefert 🙂 am 订单 42. Danke"
    write_tiny_decoder(shop.folder / "writes", script.encode())
    reply = shop.deploy(shop.application("reply", shop.folder / "writes", "5"))
    expected = {"text": script[2:], "finish_reason": "stop"}
    body = {"inputs": ["a"], "max_tokens": 60}
    answer = requests.post(reply, json=body, timeout=15).json()
    assert answer == {"model": {"name": "tiny", "version": "5"}, "predictions": [expected]}
    came = events(requests.post(reply, json={**body, "stream": True}, timeout=15))
    assert "".join(each["text"] for each in came) == expected["text"]
    assert came[-1]["finish_reason"] == "stop"
    for base in (reply, reply.removesuffix("/reply")):  # the service, and the catalogue in front of it
        client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=15)
        assert "reply" in [each.id for each in client.models.list()]
        made = client.completions.create(model="reply", prompt="a")
        assert made.choices[0].text == expected["text"]
        chunks = client.completions.create(model="reply", prompt="a", stream=True)
        assert "".join(each.choices[0].text for each in chunks) == expected["text"]
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="reply", messages=[{"role": "user", "content": "a"}])
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="intent" if base == reply else "unheard", prompt="a")
    with requests.post(reply, json={**body, "stream": True}, timeout=15, stream=True) as left:
        assert next(left.iter_lines())
    assert requests.post(reply, json=body, timeout=15).json()["predictions"] == [expected]
    assert ask(endpoint, ["refund"])["predictions"]
    undeploy(shop.dashboard.url, shop.dashboard.headers, shop.spec, "reply", shop.folder)


def test_a_serve_that_somebody_else_started_goes_on_with_its_own_proxy(shop: Shop, endpoint: str, cluster: Cluster):
    shop.dashboard.end_serve()
    elsewhere = shop.spec.model_copy(update={"port": free_port(9750)})
    theirs = dashboards.Dashboard(shop.dashboard.url, shop.dashboard.headers, elsewhere)
    theirs.write(theirs.read())
    made = application(elsewhere, "intent", shop.bundle("one", seed=1), "tiny", "1", shop.code_uri, shop.folder)
    answering = deploy(shop.dashboard.url, shop.dashboard.headers, elsewhere, made, shop.folder, timeout_s=90)
    assert ask(answering, TEXTS)["model"]["version"] == "1"
    assert not haproxies(cluster)
