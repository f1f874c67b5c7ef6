"""One file brings services up on a real cluster, and touches nothing that is as it should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster import registry, session, tracking
from cluster.record import Cluster
from cluster.registry import CHALLENGER, CHAMPION
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.services import ServicesSpec
from jobs import deploy, services
from jobs.command import Result
from jobs.deploy import Deployed
from jobs.release import make_champion
from jobs.services import Brought
from serving import ingress
from serving.dashboard import DeployError
from tests.processes import free_port
from tests.tiny.bundles import write_tiny_bundle


class Shop:
    """Registered models and the cluster that serves them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.port = cluster, folder, free_port(9650)
        self.url = f"http://127.0.0.1:{self.port}"

    def register(self, name: str, seeds: range) -> None:
        """A version for each seed; the first is champion."""
        with tracking.run("tune", experiment="tests of services", recipe={"output": str(self.folder)}) as run:
            for seed in seeds:
                folder = self.folder / f"{name}-{seed}"
                write_tiny_bundle(folder, seed=seed, metrics={"accuracy": 0.9, "p95_ms": 2.0})
                registry.register(name, run, folder, {}, CHALLENGER)
        make_champion(name, "1", {})

    def asked(self, remove: bool = False, common: dict[str, Any] | None = None, **models: Any) -> ServicesSpec:
        """`models`: by service the model, or a mapping."""
        listed = {name: each if isinstance(each, dict) else {"model": each} for name, each in models.items()}
        told = {"port": self.port, "graceful_shutdown_timeout_s": 1, "accept": ["untested", "outside"]}
        return ServicesSpec.model_validate(
            {"serving": {**told, **(common or {})}, "services": listed, "remove": remove}
        )

    def replicas(self) -> dict[str, set[int]]:
        """Process ids by service."""
        headers = {"Authorization": f"Bearer {self.cluster.token_path.read_text()}"}
        url = f"{self.cluster.dashboard_url}/api/serve/applications/"
        found = requests.get(url, headers=headers, timeout=30).json()["applications"]
        return {
            name: {each["pid"] for each in application["deployments"]["Service"]["replicas"]}
            for name, application in found.items()
            if "Service" in application["deployments"]
        }

    def listed(self) -> dict[str, dict[str, Any]]:
        models = requests.get(f"{self.url}/v1/models", timeout=30).json()["models"]
        return {each["service"]: each for each in models}


@pytest.fixture(scope="module")
def shop(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    session.connect()
    headers = {"Authorization": f"Bearer {on_cluster.token_path.read_text()}"}
    url = f"{on_cluster.dashboard_url}/api/serve/applications/"
    requests.delete(url, headers=headers, timeout=60).raise_for_status()
    made = Shop(on_cluster, tmp_path_factory.mktemp("services"))
    with pytest.MonkeyPatch.context() as patch:
        for name in (ingress.FOLDER, *ingress.FALLBACK_PORTS):
            patch.setenv(name, on_cluster.environment()[name])
        patch.setattr(deploy, "served", lambda *_: {})  # how fast it answers is asked elsewhere
        made.register("services-a", range(1, 3))
        made.register("services-b", range(3, 4))
        yield made
    requests.delete(url, headers=headers, timeout=60).raise_for_status()


@pytest.mark.often
def test_what_is_wrong_with_any_service_is_told_before_anything_is_changed(
    shop: Shop, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(UsageError, match=r"^nothing was changed: b: .*services-b") as refused:
        services.run(shop.asked(a="models:/services-a@champion", b="models:/services-b/7"))
    assert "\n" not in str(refused.value)
    much = {"model": "models:/services-b/1", "serving": {"replicas": 3, "cpus_per_replica": 2}}
    with pytest.raises(UsageError, match=r"b 3 x 2 are 6 CPUs, the cluster has 4; give less"):
        services.run(shop.asked(a="models:/services-a/1", b=much))
    with pytest.raises(UsageError, match=r"a: models:/services-a/2: not deployed: no test rows"):
        services.run(shop.asked(common={"accept": []}, a="models:/services-a/2"))
    assert not shop.replicas()


@pytest.mark.often
def test_one_file_brings_up_what_is_missing_swaps_what_changed_and_leaves_the_rest(shop: Shop):
    first = services.run(shop.asked(a="models:/services-a@champion", b="models:/services-b@champion"))
    assert first.deployed == {name: f"{shop.url}/v1/{name}" for name in ("a", "b")}
    before, listed = shop.replicas(), shop.listed()
    assert (listed["a"]["version"], listed["a"]["share"], listed["a"]["task"]) == ("1", 100, "classify")
    assert listed["a"]["evidence"] == {"validation_accuracy": 0.9, "p95_ms": 2.0}
    assert listed["a"]["since"].startswith("20") and listed["a"]["since"].endswith("+00:00")

    again = services.run(shop.asked(a="models:/services-a@champion", b="models:/services-b@champion"))
    assert (again.deployed, again.unchanged) == ({}, ["a", "b"])
    assert (shop.replicas(), shop.listed()) == (before, listed)

    wider = {"model": "models:/services-b/1", "serving": {"max_inputs": 5}}
    changed = services.run(shop.asked(a="models:/services-a/2", b=wider, c="models:/services-b/1"))
    assert {*changed.deployed} == {"a", "b", "c"}
    after, now = shop.replicas(), shop.listed()
    assert after["a"] == before["a"]  # another model alone is swapped in place
    assert after["b"].isdisjoint(before["b"])  # other limits start new replicas
    assert [now[name]["version"] for name in "abc"] == ["2", "1", "1"] and now["b"]["limits"]["max_inputs"] == 5
    assert registry.alias_version("services-a", CHAMPION) == "2"

    kept = services.run(shop.asked(a="models:/services-a@champion", b=wider))
    assert (kept.deployed, kept.unchanged, kept.removed) == ({}, ["a", "b"], []) and shop.replicas() == after
    removed = services.run(shop.asked(remove=True, a="models:/services-a@champion", b=wider))
    assert removed.removed == ["c"]
    assert shop.replicas() == {name: after[name] for name in "ab"} and {*shop.listed()} == {"a", "b"}


@pytest.mark.often
def test_where_one_service_fails_the_others_are_brought_up_and_it_is_named(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    services.run(shop.asked(a="models:/services-a/2", b="models:/services-b/1"))
    own = deploy.deploy

    def fails(recipe: Any) -> Deployed:
        if recipe.service == "a":
            raise JobError("its disk is full")
        return own(recipe)

    monkeypatch.setattr(deploy, "deploy", fails)
    before = shop.replicas()
    with pytest.raises(JobError, match=r"^1 of 2 services were not brought up, all others run: a: its disk is full$"):
        services.run(shop.asked(a="models:/services-a/1", d="models:/services-b/1"))
    assert {*shop.replicas()} == {"a", "b", "d"} and shop.replicas()["a"] == before["a"]


def test_the_line_says_which_failed_and_the_others_were_asked_for_all_the_same(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def run(recipe: Recipe) -> Result:
        asked.append(recipe.name)
        if recipe.name == "b":
            raise DeployError("no replica came\nwith all that Ray says")
        return Result("deploy", "run", "/output", endpoint=f"http://127.0.0.1:8000/v1/{recipe.name}")

    monkeypatch.setattr(deploy, "run", run)
    with pytest.raises(JobError, match=r"^1 of 3 services were not brought up, all others run: b: no replica came"):
        services._deploy({name: Recipe(name=name) for name in "abc"})
    assert asked == ["a", "b", "c"]
    brought = Brought(services._deploy({"c": Recipe(name="c")}), ["a"], [])
    said = json.loads(brought.line.removeprefix("RESULT "))
    assert said["deployed"] == {"c": "http://127.0.0.1:8000/v1/c"} and said["unchanged"] == ["a"]
