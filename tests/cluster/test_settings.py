"""Addresses and credentials of a job go with it to its trials and workers, and show nowhere."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import launch, servers, session, settings, tracking
from cluster.client import client, in_a_line
from cluster.outbox import Outbox
from cluster.record import Cluster
from cluster.session import JobError
from cluster.settings import ADDRESS, Settings, of_this_process
from configs import places
from configs.schema.engine import EngineSpec
from configs.schema.search import SearchSpec
from tuning.search import search

EXPERIMENT = "tests of settings"
MARK = secrets.token_hex(8)  # of every secret here; no text of this file, which Ray keeps too
SECRETS = {
    name: f"{name.lower()}-{MARK}"
    for name in ("MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
} | {"SHOP_ROWS": f"https://store.example/rows.csv?signature={MARK}"}
PLAIN = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_USERNAME": "me",
}
LISTED = (
    "jobs",
    "actors",
    "tasks",
    "workers",
    "nodes",
    "objects",
    "placement_groups",
    "runtime_envs",
)  # by the state API


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This process was told nothing, and has no settings."""
    for name in [each for each in os.environ if each.startswith(settings.PREFIXES)]:
        monkeypatch.delenv(name)
    before, environment = list(settings._entered), dict(os.environ)
    yield monkeypatch
    settings._entered[:] = before
    os.environ.clear()
    os.environ.update(environment)


def told(address: str, node: str = "10.0.0.1", **values: str) -> Settings:
    return Settings({ADDRESS: address, **values}, node)


def test_a_process_of_a_job_has_the_settings_of_its_driver_and_none_of_its_node(alone: pytest.MonkeyPatch):
    alone.setenv(ADDRESS, "http://server:5000")
    alone.setenv("HF_HOME", "/hub")
    given = of_this_process("10.0.0.1")
    alone.setenv(ADDRESS, "http://of-the-node:5000")
    alone.setenv("MLFLOW_TRACKING_TOKEN", "for the node's server alone")
    given.enter("10.0.0.2")
    assert {name: os.environ[name] for name in os.environ if name.startswith(settings.PREFIXES)} == {
        ADDRESS: "http://server:5000",
        "HF_HOME": "/hub",
        **settings.GUARDED,
    }


def test_a_process_of_a_job_has_the_places_that_its_recipe_names(alone: pytest.MonkeyPatch):
    alone.setattr("configs.places._used", set())
    alone.setattr("configs.shown_urls._hidden", {})
    alone.setenv("SHOP_ROWS", "/rows.csv")
    alone.setenv("OTHER_ROWS", "/other.csv")
    places.resolved("env:SHOP_ROWS", "data.train")
    given = of_this_process("10.0.0.1")
    assert {name for name in given.values if name.endswith("ROWS")} == {"SHOP_ROWS"}
    alone.delenv("SHOP_ROWS")
    given.enter("10.0.0.2")
    alone.setattr("configs.places._used", set())  # a trial, which has opened none of them
    of_this_process("10.0.0.2").enter("10.0.0.3")
    assert places.resolved("env:SHOP_ROWS", "data.train") == "/rows.csv"


def test_settings_do_not_show_what_they_hold(alone: pytest.MonkeyPatch):
    shown = told("http://me:secret@server:5000", HF_TOKEN="secret")
    assert "secret" not in f"{shown} {shown!r}"


def test_an_address_that_leads_elsewhere_from_another_node_is_one_line(alone: pytest.MonkeyPatch):
    given = told("http://me:secret@127.0.0.1:5000")
    given.enter("10.0.0.1")
    with pytest.raises(JobError) as refused:
        given.enter("10.0.0.2")
    assert str(refused.value) == (
        "environment: MLFLOW_TRACKING_URI: http://127.0.0.1:5000 is another server on node 10.0.0.2 than on 10.0.0.1, "
        "where the job runs; give an address that all nodes reach"
    )


def test_a_process_that_meets_another_address_than_its_driver_is_told_so_in_one_line(
    alone: pytest.MonkeyPatch, tmp_path: Path
):
    told("http://me:secret@server:5000").enter("10.0.0.1")
    alone.setenv(ADDRESS, "http://other:5000")
    wanted = (
        "environment: MLFLOW_TRACKING_URI: http://other:5000 in a process of a job that records at http://server:5000; "
        "set it in the environment of the job alone"
    )
    with pytest.raises(JobError) as refused:
        Outbox("run", tmp_path)
    assert str(refused.value) == wanted
    with (
        pytest.raises(JobError) as refused,
        tracking.run("trial", experiment="x", recipe={"output": str(tmp_path)}, parent="p"),
    ):
        pass
    assert str(refused.value) == wanted
    with pytest.raises(JobError, match=r"http://server:5000 in a process of a job that records at http://third:5000"):
        told("http://third:5000").enter("10.0.0.1")


def test_messages_about_mlflow_name_its_address_without_the_user(alone: pytest.MonkeyPatch):
    alone.setenv(ADDRESS, "http://me:secret@127.0.0.1:1")
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as failed:
        client().search_experiments()
    assert "secret" in str(failed.value), "control"
    assert "secret" not in in_a_line(failed.value)
    assert session.mlflow_page("http://me:secret@server", "7").startswith("http://server/#/experiments/7?")


def met(config: dict[str, Any]) -> dict[str, str]:
    """On a worker: a curve for the run that it is told; digests of what its environment holds."""
    record = Outbox(config["run_id"], Path(config["output"]))
    record.log({"curve": 1.0}, 1)
    assert record.close(60)
    return {name: digest(os.environ.get(name, "")) for name in (*SECRETS, *PLAIN)}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def trial(values: dict[str, Any], trial_id: str, *, recipe: dict[str, Any], parent: str) -> dict[str, float]:
    """In a process of Ray Tune: a run below `parent`, and a worker."""
    folder = Path(recipe["output"])
    with tracking.run("trial", experiment=EXPERIMENT, recipe=recipe, parent=parent, name=f"trial {trial_id}") as run:
        told = {"run_id": run.id, "output": str(folder)}
        found = launch.fit(f"{__name__}:met", told, EngineSpec(cpus_per_worker=1), folder / "ray")
        (folder / "met.json").write_text(json.dumps(found))
    return {"score": 1.0, "metric": 1.0}


def planted() -> None:
    """In a process of Ray, of whose `runtime_env` and log it shows a secret."""
    print(os.environ["HF_TOKEN"], flush=True)


@pytest.mark.parallel
def test_a_search_records_at_the_servers_of_its_driver_and_shows_no_secret(
    on_cluster: Cluster, mlflow_alone: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import ray

    session.connect()
    for name, value in {**SECRETS, **PLAIN}.items():
        monkeypatch.setenv(name, value)
    places.resolved("env:SHOP_ROWS", "data.train")
    host = mlflow_alone.mlflow_url.removeprefix("http://")
    monkeypatch.setenv(ADDRESS, f"http://me:userinfo-{MARK}@{host}")
    recipe = {"name": "tiny", "output": str(tmp_path), "data": {"train": "env:SHOP_ROWS"}}
    with tracking.run("tune", experiment=EXPERIMENT, recipe=recipe) as run:
        objective = functools.partial(trial, recipe=recipe, parent=run.id)
        (found,) = search(objective, SearchSpec.model_validate({"trials": 1, "space": {}}), tmp_path / "search")
        assert found.error is None
    assert json.loads((tmp_path / "met.json").read_text()) == {
        name: digest(value) for name, value in {**SECRETS, **PLAIN}.items()
    }
    (experiment,) = (each for each in client().search_experiments() if each.name == EXPERIMENT)
    runs = {each.info.run_name: each.data for each in client().search_runs([experiment.experiment_id])}
    assert runs["trial 01"].tags["mlflow.parentRunId"] == run.id and runs["trial 01"].metrics["curve"] == 1.0
    monkeypatch.setenv(ADDRESS, on_cluster.mlflow_url)
    assert not [each for each in client().search_experiments() if each.name == EXPERIMENT]

    folders = [on_cluster.temp, on_cluster.state, mlflow_alone.state, tmp_path]
    assert shown(MARK, on_cluster, folders) == []
    control = f"control-{secrets.token_hex(8)}"
    ray.get(ray.remote(planted).options(runtime_env={"env_vars": {"HF_TOKEN": control}}).remote())
    found = shown(control, on_cluster, folders)
    assert "runtime_envs" in found and any(place.startswith(str(on_cluster.temp)) for place in found), "control"


def shown(secret: str, cluster: Cluster, folders: list[Path]) -> list[str]:
    """Lists of the dashboard, and files, that hold a secret."""
    pages = {name: f"/api/v0/{name}?detail=true&limit=10000" for name in LISTED}
    pages |= {page: page for page in ("/api/jobs/", "/api/train/v2/runs/v1", "/logical/actors", "/nodes?view=details")}
    found = [name for name, page in pages.items() if secret.encode() in answered(cluster, page)]
    grep = ["grep", "-rlF", "--devices=skip", "-e", secret, *map(str, folders)]
    return found + subprocess.run(grep, capture_output=True, text=True, check=False).stdout.splitlines()


def answered(cluster: Cluster, page: str) -> bytes:
    """What the dashboard says, be it an error: it has no list of Ray Train's runs unless Train keeps its state."""
    try:
        return servers._get(cluster.dashboard_url + page, cluster, 30)
    except urllib.error.HTTPError as error:
        return error.read()
