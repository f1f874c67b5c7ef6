from __future__ import annotations

import math
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.session import JobError
from configs.loader import UsageError
from jobs import deploy
from jobs.deploy import CHAMPION, PREVIOUS, check_evidence, check_serve, evidence, make_champion, smoke
from jobs.recipe import Recipe
from jobs.tune import CHALLENGER
from serving import deployment
from serving.bundle import bundle_bytes, read_bundle
from serving.dashboard import Dashboard, DeployError
from serving.spec import ServingSpec
from tests.proxy import Fault, in_front_of
from tests.serving.tiny import LABELS, write_tiny_bundle
from tuning.spec import BudgetSpec

URI = "models:/tiny/3"
BUDGET = BudgetSpec(min_retention=0.99, max_p95_ms=5, max_megabytes=10)
MEASURED = {"metric": 0.9, "retention": 0.995, "p95_ms": 2.0, "megabytes": 3.0}


def test_evidence_inside_the_budget_opens_the_gate():
    check_evidence(URI, MEASURED, BUDGET)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"retention": 0.98}, "retention 0.98 (limit min_retention=0.99)"),
        ({"p95_ms": 5.5}, "p95_ms 5.5 (limit max_p95_ms=5)"),
        ({"megabytes": 12.0}, "megabytes 12 (limit max_megabytes=10)"),
        ({"p95_ms": math.nan}, "p95_ms nan (limit max_p95_ms=5)"),
        (
            {"p95_ms": 6.0, "retention": 0.5},
            "retention 0.5 (limit min_retention=0.99), p95_ms 6 (limit max_p95_ms=5)",
        ),
    ],
)
def test_evidence_outside_the_budget_is_refused_with_limit_and_value(changed: dict[str, float], said: str):
    with pytest.raises(JobError, match=rf"^{URI}: not deployed: {re.escape(said)}; "):
        check_evidence(URI, MEASURED | changed, BUDGET)


@pytest.mark.parametrize("name", MEASURED)
def test_evidence_that_is_missing_is_refused(name: str):
    measured = {key: value for key, value in MEASURED.items() if key != name}
    with pytest.raises(JobError, match=rf"not deployed: {name} nan.*; nan means that it was never measured"):
        check_evidence(URI, measured, BUDGET)


def test_evidence_counts_the_files_whatever_the_manifest_says(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "tiny", metrics={"megabytes": 1e-9, "retention": 1.0})
    assert evidence(bundle) == {"retention": 1.0, "megabytes": bundle_bytes(bundle) / 1e6}


@pytest.mark.parametrize("pairs", [False, True])
def test_a_sound_bundle_passes_the_smoke_request(tmp_path: Path, pairs: bool):
    smoke(URI, tmp_path / "tiny", write_tiny_bundle(tmp_path / "tiny", pairs=pairs))


@pytest.mark.parametrize("answer", [{"label": "unheard", "score": 0.5}, {"label": LABELS[0], "score": math.nan}])
def test_an_answer_that_makes_no_sense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
):
    class Nonsense:
        def predict(self, texts: list[str]) -> list[dict[str, Any]]:
            return [answer for _ in texts]

    monkeypatch.setattr(deploy, "load_bundle", lambda folder: Nonsense())
    with pytest.raises(JobError, match=rf"^{URI}: not deployed: the smoke request was answered '{answer['label']}'"):
        smoke(URI, tmp_path / "tiny", write_tiny_bundle(tmp_path / "tiny"))


def test_a_folder_is_not_deployed_since_it_could_not_be_rolled_back(tmp_path: Path):
    recipe = Recipe(name="tiny", bundle=str(tmp_path))
    with pytest.raises(UsageError, match=rf"^bundle: '{tmp_path}': deploy takes registered models, models:/<name>@"):
        deploy.deploy(recipe)


def test_a_service_that_is_not_there_is_not_removed_and_those_that_are_get_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(session, "home", lambda: tmp_path)
    monkeypatch.setattr(Dashboard, "read", lambda _: {"intent": {}, "catalogue": {}})
    with pytest.raises(JobError, match=r"^review: not deployed; services: intent$"):
        deploy.remove(Recipe(name="tiny", remove=True, serving=ServingSpec(service="review")))


class Serve:
    """Stands in for Ray Serve; remembers which versions it was given."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.broken = False

    def deploy(
        self, url: str, headers: Any, spec: Any, application: dict[str, Any], folder: Path, answering: Any
    ) -> str:
        if self.broken:
            raise DeployError("tiny: version was not deployed: out of memory\nas Ray says")
        self.versions.append(application["deployments"][0]["user_config"]["version"])
        answering()
        return "http://127.0.0.1:8000/v1/tiny"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    stand_in = Serve()
    monkeypatch.setattr(deployment, "deploy", stand_in.deploy)
    return stand_in


def test_a_taken_port_is_one_line_before_anything_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(Dashboard, "_details", lambda _: {"applications": {}})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=rf"^port {port} of 127\.0\.0\.1: .*; choose another serving\.port$"):
            check_serve(ServingSpec(port=port))


def aliases_of(name: str) -> tuple[str | None, str | None]:
    return registry.alias_version(name, CHAMPION), registry.alias_version(name, PREVIOUS)


@pytest.fixture
def three(on_mlflow: Cluster, tmp_path: Path) -> str:
    """A model of three versions, and no champion yet."""
    name = tmp_path.name.replace("_", "-")
    with tracking.run("tune", experiment="tests of deploy", recipe={"output": str(tmp_path)}) as run:
        for seed in (1, 2, 3):
            write_tiny_bundle(tmp_path / str(seed), seed=seed)
            registry.register(name, run, tmp_path / str(seed), {}, CHALLENGER)
    return name


@pytest.mark.parametrize("fault", ["drop", "lose"])
@pytest.mark.parametrize("champions", [[], ["1"], ["1", "2"]])
def test_aliases_that_cannot_move_stay_where_they_were(
    three: str, on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch, champions: list[str], fault: Fault
):
    for version in champions:
        make_champion(three, version)
    before = aliases_of(three)
    assert before == (*reversed(champions), None, None)[:2]
    with in_front_of(on_mlflow.mlflow_url) as proxy:
        monkeypatch.setattr(registry, "REGISTER_SECONDS", 0.0)  # one try
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        proxy.break_first(1, "/alias", fault)
        with pytest.raises(DeployError, match=rf"^models:/{three}: alias '\w+' not set: MLflow at [^\n]*$"):
            make_champion(three, "3")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", on_mlflow.mlflow_url)
    assert aliases_of(three) == before


def test_aliases_that_cannot_be_put_back_are_named_with_what_they_were(three: str, monkeypatch: pytest.MonkeyPatch):
    make_champion(three, "1")

    def away(*_: Any) -> None:
        raise JobError("alias not set: MLflow is away")

    monkeypatch.setattr(registry, "set_alias", away)
    said = "alias not set: MLflow is away; aliases may have moved, before: champion 1, previous unset"
    with pytest.raises(DeployError, match=f"^{said}$"):
        make_champion(three, "2")


def test_a_job_that_is_stopped_while_an_alias_moves_puts_it_back(three: str, monkeypatch: pytest.MonkeyPatch):
    make_champion(three, "1")
    set_alias = registry.set_alias

    def stopped(name: str, alias: str, version: str | None, *seconds: float) -> None:
        set_alias(name, alias, version, *seconds)
        if version == "2":
            raise SystemExit(143)

    monkeypatch.setattr(registry, "set_alias", stopped)
    with pytest.raises(SystemExit):
        make_champion(three, "2")
    assert aliases_of(three) == ("1", None)


def test_the_alias_champion_moves_when_the_service_answers_and_back_again(
    on_cluster: Cluster, serve: Serve, tmp_path: Path
):
    session.connect()
    name = "tiny-deploy"
    challenger = Recipe(name=name, budget=BudgetSpec(min_retention=0.9))

    def aliases() -> tuple[str | None, str | None]:
        return registry.alias_version(name, CHAMPION), registry.alias_version(name, PREVIOUS)

    with tracking.run("tune", experiment="tests of deploy", recipe={}) as run:
        for seed in (1, 2, 3):
            measured = {"metric": 0.9, "retention": 0.9 if seed == 3 else 1.0}
            write_tiny_bundle(tmp_path / str(seed), seed=seed, metrics=measured)
            registry.register(name, run, tmp_path / str(seed), {}, CHALLENGER)
            if seed == 1:
                uri, endpoint, measured = deploy.deploy(challenger)
                assert (uri, endpoint) == (f"models:/{name}/1", "http://127.0.0.1:8000/v1/tiny")
                assert measured == evidence(read_bundle(tmp_path / "1"))
                assert aliases() == ("1", None)
            if seed == 2:
                serve.broken = True
                with pytest.raises(JobError, match=r"^tiny: version was not deployed: out of memory$"):
                    deploy.deploy(challenger)
                assert aliases() == ("1", None)
                serve.broken = False
                deploy.deploy(challenger)
                assert aliases() == ("2", "1")
    strict = challenger.model_copy(update={"budget": BudgetSpec(min_retention=0.99)})
    with pytest.raises(JobError, match=rf"^models:/{name}@challenger: not deployed: retention 0\.9 "):
        deploy.deploy(strict)
    deploy.deploy(challenger.model_copy(update={"bundle": f"models:/{name}@{PREVIOUS}"}))
    assert aliases() == ("1", "2")
    assert serve.versions == ["1", "2", "1"]
