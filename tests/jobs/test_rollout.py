"""The rollout of a registered model, with the registry as it is and a service that stands in for Ray Serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.registry import CHALLENGER, CHAMPION, PREVIOUS
from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.serving import RolloutSpec
from jobs import deploy, rollout
from jobs.release import RETURNED_TAG, WHY_TAG, make_champion
from serving import deployment
from serving.dashboard import Dashboard, DeployError
from serving.rollout import Counts, Report
from serving.running import Running
from serving.service import Release
from tests.tiny.bundles import write_tiny_bundle

ROLLOUT = {"canary": 10, "requests": 100}


class Serve:
    """Stands in for a service of two replicas that runs a model."""

    def __init__(self, name: str, runs: str | None) -> None:
        release = Release(bundle="/bundle", name=name, version=runs or "0")
        self.running = Running(number=3, champion=release) if runs else None
        self.counts = [Counts()]  # of one replica at each question, the last one again

    def begin(self, url: str, headers: Any, spec: Any, application: Any, folder: Path, allowed: Any) -> Running | None:
        if self.running is None:
            return None
        allowed(self.running.champion.model_dump())
        release = Release.model_validate(application["deployments"][0]["user_config"])
        self.running = self.running.with_candidate(release, spec.rollout)
        return self.running

    def end(
        self,
        url: str,
        headers: Any,
        spec: Any,
        service: str,
        folder: Path,
        promoted: bool,
        number: int | None = None,
        answering: Callable[[], None] = lambda: None,
    ) -> Running | None:
        before = self.running
        if before is None or before.candidate is None or number not in (None, before.number):
            return None
        answering()
        self.running = before.with_champion(before.candidate.release if promoted else before.champion)
        return before

    def deploy(
        self, url: str, headers: Any, spec: Any, application: Any, folder: Path, answering: Any, allowed: Any
    ) -> str:
        allowed(self.running and self.running.champion.model_dump())
        answering()
        release = Release.model_validate(application["deployments"][0]["user_config"])
        self.running = Running(number=0, champion=release)
        return "http://127.0.0.1:8000/v1/shop"

    def tell(self, service: str, timeout_s: float) -> list[Report]:
        assert self.running
        counts = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return [Report(number=self.running.number, counts=each) for each in (counts, Counts())]


@pytest.fixture
def serve(on_mlflow: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A service of a model with three versions, of which the second is champion, and the third the challenger."""
    name = tmp_path.name.replace("_", "-")
    with tracking.run("tune", experiment="tests of rollout", recipe={"output": str(tmp_path)}) as run:
        for seed in (1, 2, 3):
            write_tiny_bundle(tmp_path / str(seed), seed=seed)
            registry.register(name, run, tmp_path / str(seed), {}, CHALLENGER)
    for version in ("1", "2"):
        make_champion(name, version, {f"{WHY_TAG}shop": "first"})
    made = Serve(name, "2")
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    for each in ("begin", "end", "deploy"):
        monkeypatch.setattr(deployment, each, getattr(made, each))
    monkeypatch.setattr(rollout, "tell", made.tell)
    monkeypatch.setattr(deploy, "tell", made.tell)
    monkeypatch.setattr(deploy, "served", lambda *_: {"served_p50_ms": 2.0, "served_p95_ms": 3.0})
    monkeypatch.setattr(rollout, "POLL_S", 0)
    return made


def recipe(serve: Serve, spec: Mapping[str, Any] | None = None, **given: Any) -> Recipe:
    told = {"service": "shop", "accept": ["untested", "outside"], "rollout": {**ROLLOUT, **(spec or {})}}
    assert serve.running
    place = {"name": serve.running.champion.name, "output": "/nowhere"}
    return Recipe.model_validate({**place, "serving": told, **given})


def aliases(serve: Serve) -> tuple[str | None, str | None]:
    assert serve.running
    name = serve.running.champion.name
    return registry.alias_version(name, CHAMPION), registry.alias_version(name, PREVIOUS)


def tags(serve: Serve, version: str) -> dict[str, str]:
    assert serve.running
    return registry.tags(serve.running.champion.name, version)


def test_a_candidate_inside_its_limits_becomes_champion_and_the_registry_says_why(serve: Serve):
    serve.counts = [Counts(requests=40), Counts(requests=100, candidate_ms=[2.0] * 100, champion_ms=[3.0])]
    done = deploy.run(recipe(serve))
    assert serve.running and serve.running.champion.version == "3" and serve.running.candidate is None
    assert aliases(serve) == ("3", "2")
    assert tags(serve, "3")[f"{WHY_TAG}shop"] == "100 requests: 0 failed, p95 2 ms"
    assert done.metrics.items() >= {"rollout_requests": 100, "rollout_errors": 0, "rollout_p95_ms": 2.0}.items()
    assert done.metrics["rollout_champion_p95_ms"] == 3.0
    assert done.endpoint == "http://127.0.0.1:8000/v1/shop"


def test_a_candidate_that_fails_is_sent_back_with_the_reason(serve: Serve):
    serve.counts = [Counts(requests=40, errors=1)]
    said = "1 of 40 requests failed, and max_error_rate=0 of 100 may"
    with pytest.raises(JobError, match=f"^shop: version 3 was not promoted, version 2 goes on: {said}$"):
        deploy.run(recipe(serve))
    assert serve.running and serve.running.champion.version == "2" and serve.running.candidate is None
    assert aliases(serve) == ("2", "1")
    assert tags(serve, "3")[f"{RETURNED_TAG}shop"].endswith(f": {said}")


@pytest.mark.parametrize("fault", [SystemExit(143), KeyboardInterrupt(), DeployError("TimeoutError: 30 s")])
def test_whatever_ends_the_job_the_champion_answers_alone_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fault: BaseException
):
    def broken(*_: Any) -> list[Report]:
        raise fault

    monkeypatch.setattr(rollout, "tell", broken)
    with pytest.raises((type(fault), JobError)):
        deploy.deploy(recipe(serve))
    assert serve.running and serve.running.champion.version == "2" and serve.running.candidate is None
    assert f"{RETURNED_TAG}shop" in tags(serve, "3")
    assert aliases(serve) == ("2", "1")


def test_a_champion_that_the_registry_does_not_take_is_none(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    serve.counts = [Counts(requests=100)]

    def away(*_: Any) -> None:
        raise DeployError("MLflow is away")

    monkeypatch.setattr(deploy, "make_champion", away)
    with pytest.raises(JobError, match="MLflow is away"):
        deploy.deploy(recipe(serve))
    assert aliases(serve) == ("2", "1")


def test_a_rollback_ends_a_rollout_while_its_job_waits(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def tell(service: str, timeout_s: float) -> list[Report]:
        if not asked:
            asked.append(1)
            deploy.run(recipe(serve, rollback=True))  # by another job, which does not wait for the first
        return serve.tell(service, timeout_s)

    monkeypatch.setattr(rollout, "tell", tell)
    with pytest.raises(JobError, match=r"^shop: version 3: another command ended its rollout$"):
        deploy.run(recipe(serve))
    assert serve.running and serve.running.champion.version == "2" and serve.running.candidate is None
    assert aliases(serve) == ("2", "1")


def test_a_rollback_without_a_rollout_brings_the_champion_before_back(serve: Serve):
    done = deploy.run(recipe(serve, rollback=True))
    assert done.model_uri and done.model_uri.endswith("/1")
    assert serve.running and serve.running.champion.version == "1"
    assert aliases(serve) == ("1", "2")
    assert tags(serve, "1")[f"{WHY_TAG}shop"] == "rollback=true"


def test_the_first_model_of_a_service_is_deployed_at_once(serve: Serve):
    asked = recipe(serve)
    serve.running = None
    deploy.run(asked)
    assert serve.running and serve.running.champion.version == "3"
    assert tags(serve, "3")[f"{WHY_TAG}shop"] == "deployed without a rollout"


def test_the_status_says_who_is_champion_since_when_and_why_and_how_the_rollout_goes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    assert serve.running
    serve.counts = [Counts(requests=7, compared=10, agreed=9)]
    monkeypatch.setattr(Dashboard, "read", lambda _: {"shop": {}})
    monkeypatch.setattr("serving.applications.running_of", lambda _: serve.running)
    assert deploy.run(recipe(serve, status=True)).metrics == {"replicas": 2}
    assert "version 2, champion since unknown: first" in caplog.text
    release = Release(bundle="/bundle", name="tiny", version="3")
    serve.running = serve.running.with_candidate(release, RolloutSpec.model_validate(ROLLOUT))
    found = deploy.run(recipe(serve, status=True)).metrics
    assert found == {"replicas": 2, "rollout_requests": 7, "rollout_errors": 0, "rollout_agreement": 0.9}
    assert "shop: version 3, canary of 10 %: 7 requests, 0 failed, 90.00% of 10 inputs alike" in caplog.text
