"""What a service runs changes in the replicas that are there: they follow a file, or all stays as it was."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from configs.schema.serving import RolloutSpec, ServingSpec
from serving.app import Service, ServiceArgs
from serving.applications import CATALOGUE, application, is_like, listed, release_of, running_file, running_of
from serving.bundle import MANIFEST, BundleError
from serving.change import Change
from serving.dashboard import DeployError
from serving.deployment import begin, deploy, end
from serving.rollout import Report
from serving.running import Running, read_running, write_running
from serving.service import Release
from tests.tiny.bundles import write_tiny_bundle

SPEC = ServingSpec.model_validate({"max_inputs": 8})
CANARY = RolloutSpec.model_validate({"canary": 50, "requests": 3})


def release(folder: Path, version: str, seed: int = 1) -> Release:
    if not folder.exists():
        write_tiny_bundle(folder, seed=seed)
    return Release(bundle=str(folder), name="tiny", version=version)


def replica(running: Path) -> Service:
    """A service as in a replica, without Ray."""
    return Service(ServiceArgs(service="intent", serving=SPEC, running=str(running)))


def version(service: Service) -> str:
    with TestClient(service._app) as client:
        return client.post("/v1/intent", json={"inputs": ["refund"]}).json()["model"]["version"]


def test_a_replica_follows_its_file_and_one_that_starts_later_reads_it(tmp_path: Path):
    file = tmp_path / "running.json"
    one, two = release(tmp_path / "one", "1"), release(tmp_path / "two", "2", seed=2)
    first = replica(file)
    asyncio.run(first.reconfigure(one.model_dump()))
    assert version(first) == "1"
    write_running(file, Running(number=7, champion=two))
    assert version(first) == "1"
    assert Report.model_validate(asyncio.run(first.follow())).number == 7
    later = replica(file)
    asyncio.run(later.reconfigure(one.model_dump()))
    assert (version(first), version(later)) == ("2", "2")


def test_a_change_that_was_missed_is_seen_by_the_next_check_of_health(tmp_path: Path):
    file = tmp_path / "running.json"
    service = replica(file)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="no model is loaded"):
            await service.check_health()
        await service.reconfigure(release(tmp_path / "one", "1").model_dump())
        write_running(file, Running(number=1, champion=release(tmp_path / "one", "2")))
        await service.check_health()
        assert service._following
        await service._following

    asyncio.run(run())
    assert version(service) == "2"


@pytest.mark.parametrize("harm", ["gone", "rotten", "silent", "no file of ours"])
def test_what_cannot_answer_leaves_the_one_that_does(tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "running.json"
    service = replica(file)
    asyncio.run(service.reconfigure(release(tmp_path / "one", "1").model_dump()))
    bad = release(tmp_path / "bad", "2")
    write_running(file, Running(number=1, champion=bad))
    if harm == "gone":
        (tmp_path / "bad" / MANIFEST).unlink()
    elif harm == "rotten":
        (tmp_path / "bad" / "model.onnx").write_bytes(b"bit rot")
    elif harm == "silent":
        monkeypatch.setattr(
            "serving.labelling.Labelling.predict_together", lambda *_: [[{"label": "a", "score": float("nan")}]]
        )
    else:
        file.write_text('{"number": 1}')
    with pytest.raises(BundleError):
        asyncio.run(service.follow())
    monkeypatch.undo()
    assert version(service) == "1"
    asyncio.run(service.check_health())  # the replica goes on


def test_a_model_that_answers_no_more_leaves_memory(tmp_path: Path):
    file = tmp_path / "running.json"
    service = replica(file)
    asyncio.run(service.reconfigure(release(tmp_path / "one", "1").model_dump()))
    gone = weakref.ref(service.model())
    write_running(file, Running(number=1, champion=release(tmp_path / "two", "2")))
    asyncio.run(service.follow())
    gc.collect()
    assert gone() is None


def test_a_champion_is_not_loaded_again_for_a_rollout(tmp_path: Path):
    file = tmp_path / "running.json"
    service = replica(file)
    one, two = release(tmp_path / "one", "1"), release(tmp_path / "two", "2", seed=2)
    asyncio.run(service.reconfigure(one.model_dump()))
    champion = service.model()
    running = Running(number=0, champion=one)
    write_running(file, running := running.with_candidate(two, CANARY))
    asyncio.run(service.follow())
    assert service.model() is not champion
    assert {version(service) for _ in range(60)} == {"1", "2"}
    report = Report.model_validate(asyncio.run(service.follow()))
    assert 0 < report.counts.requests < 60
    write_running(file, running.with_champion(one))
    asyncio.run(service.follow())
    assert service.model() is champion


@pytest.mark.parametrize("text", ["", "{", '{"number": 1}', "\xff"])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "running.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"running\.json: is no file of this version of the program; deploy the"):
        read_running(tmp_path / "running.json")


class Stage:
    """Stands in for a Ray dashboard on which all goes well, with two replicas of each service."""

    address = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.deployed: dict[str, dict[str, Any]] = {}
        self.replicas: list[Service] = []

    def check(self) -> dict[str, dict[str, Any]]:
        return json.loads(json.dumps(self.deployed))

    read = check

    def write(self, applications: dict[str, dict[str, Any]]) -> None:
        args = {name: each.get("args") for name, each in self.deployed.items()}
        self.deployed = json.loads(json.dumps(applications))
        if "intent" in applications and args.get("intent") != applications["intent"]["args"]:
            made = applications["intent"]
            self.replicas = [Service(ServiceArgs.model_validate(made["args"])) for _ in range(2)]
            for each in self.replicas:
                asyncio.run(each.reconfigure(made["deployments"][0]["user_config"]))

    def wait(self, name: str, deadline: float) -> None:
        assert name in self.deployed

    def wait_answering(self, entry: dict[str, Any], deadline: float, *asks: bool) -> None:
        assert entry in listed(self.deployed[CATALOGUE])

    def tell(self, service: str, timeout_s: float) -> list[Report]:
        try:
            return [Report.model_validate(asyncio.run(each.follow())) for each in self.replicas]
        except BundleError as error:
            raise DeployError(str(error)) from None

    @property
    def versions(self) -> list[str]:
        """What each replica answers with, and what the catalogue lists."""
        (entry,) = listed(self.deployed[CATALOGUE])
        return [*map(version, self.replicas), entry["version"]]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr("serving.deployment.Dashboard", lambda *_: made)
    return made


@pytest.fixture
def shop(stage: Stage, tmp_path: Path) -> Callable[..., str]:
    """Deploys a version of the service `intent`."""

    def put(number: str, seed: int = 1, **given: Any) -> str:
        made = application_of(tmp_path, number, seed)
        return deploy("", {}, SPEC, made, tmp_path, ask=stage.tell, **given)

    return put


def application_of(folder: Path, number: str, seed: int = 1, spec: ServingSpec = SPEC) -> dict[str, Any]:
    bundle = Path(release(folder / f"bundle-{seed}", number, seed).bundle)
    return application(spec, "intent", bundle, "tiny", number, "file:///code.zip", folder)


def test_another_model_alone_starts_no_replica(stage: Stage, shop: Callable[..., str]):
    shop("1")
    replicas = list(stage.replicas)
    shop("2", seed=2)
    assert stage.replicas == replicas
    assert stage.versions == ["2", "2", "2"]
    assert release_of(stage.deployed["intent"])["version"] == "2"


def test_another_limit_starts_new_replicas_and_leaves_no_file_behind(
    stage: Stage, tmp_path: Path, shop: Callable[..., str]
):
    shop("1")
    shop("2", seed=2)
    file, replicas = running_file(stage.deployed["intent"]), list(stage.replicas)
    assert file.exists()
    other = SPEC.model_copy(update={"max_inputs": 4})
    made = application_of(tmp_path, "3", spec=other)
    assert not is_like(made, stage.deployed["intent"])
    deploy("", {}, other, made, tmp_path, ask=stage.tell)
    assert stage.replicas != replicas
    assert stage.versions == ["3", "3", "3"]
    assert not file.exists()


@pytest.mark.parametrize("fault", [DeployError("no champion"), SystemExit(143), ValueError("no JSON")])
def test_whatever_ends_a_change_the_version_before_answers(
    stage: Stage, shop: Callable[..., str], fault: BaseException
):
    shop("1")

    def answering() -> None:
        assert stage.versions == ["2", "2", "2"]
        raise fault

    with pytest.raises(type(fault)) as failed:
        shop("2", seed=2, answering=answering)
    assert stage.versions == ["1", "1", "1"]
    if isinstance(fault, DeployError):
        said = "intent: tiny version 2 was not deployed: no champion; it goes on with version 1"
        assert str(failed.value) == said


def test_a_model_that_rots_after_it_was_checked_is_not_taken(stage: Stage, tmp_path: Path):
    deploy("", {}, SPEC, application_of(tmp_path, "1"), tmp_path, ask=stage.tell)
    made = application_of(tmp_path, "2", seed=2)
    (tmp_path / "bundle-2" / "model.onnx").write_bytes(b"bit rot")
    with pytest.raises(
        DeployError, match=r"^intent: tiny version 2 was not deployed: .*model\.onnx.*; it goes on with"
    ):
        deploy("", {}, SPEC, made, tmp_path, ask=stage.tell)
    assert stage.versions == ["1", "1", "1"]


def begun(stage: Stage, folder: Path, number: str = "2", seed: int = 2) -> Running | None:
    spec = SPEC.model_copy(update={"rollout": CANARY})
    return begin("", {}, spec, application_of(folder, number, seed, spec), folder, lambda _: None, ask=stage.tell)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_rollout_ends_with_one_model_in_all_replicas(
    stage: Stage, tmp_path: Path, shop: Callable[..., str], promoted: bool
):
    shop("1")
    since = -1  # long ago, so that no clock decides
    listed(stage.deployed[CATALOGUE])[0]["created"] = since
    replicas = list(stage.replicas)
    running = begun(stage, tmp_path)
    assert running and running.candidate
    (entry,) = listed(stage.deployed[CATALOGUE])
    assert entry["created"] == since
    assert entry["candidate"] == {"name": "tiny", "version": "2", "share": 50} and entry["share"] == 50
    assert {version(each) for each in stage.replicas for _ in range(40)} == {"1", "2"}
    with pytest.raises(DeployError, match="version 2 is being tried; wait for its end, or rollback=true ends it now"):
        begun(stage, tmp_path, "3", 3)
    told = []
    ended = end("", {}, SPEC, "intent", tmp_path, promoted, running.number, lambda: told.append(1), ask=stage.tell)
    assert ended == running
    assert stage.versions == (["2"] * 3 if promoted else ["1"] * 3)
    assert stage.replicas == replicas
    assert told == [1]
    assert "candidate" not in listed(stage.deployed[CATALOGUE])[0]
    (entry,) = listed(stage.deployed[CATALOGUE])
    assert entry["share"] == 100
    assert (entry["created"] == since) is not promoted  # a champion that stays is listed since when it was
    assert end("", {}, SPEC, "intent", tmp_path, promoted, running.number, ask=stage.tell) is None


def test_the_first_model_of_a_service_has_nothing_to_be_tried_against(stage: Stage, tmp_path: Path):
    assert begun(stage, tmp_path) is None
    assert stage.deployed == {}


def test_a_champion_is_not_tried_against_itself(stage: Stage, tmp_path: Path, shop: Callable[..., str]):
    shop("1")
    with pytest.raises(DeployError, match="version 1 is its champion already"):
        begun(stage, tmp_path, "1", 1)


def test_a_rollout_in_replicas_of_other_limits_begins_with_the_champion_in_new_ones(
    stage: Stage, tmp_path: Path, shop: Callable[..., str]
):
    shop("1")
    replicas = list(stage.replicas)
    spec = SPEC.model_copy(update={"rollout": CANARY, "max_inputs": 4})
    made = application_of(tmp_path, "2", 2, spec)
    running = begin("", {}, spec, made, tmp_path, lambda _: None, ask=stage.tell)
    assert running and running.champion.version == "1"
    assert stage.replicas != replicas
    assert {version(each) for each in stage.replicas for _ in range(40)} == {"1", "2"}


def test_replicas_that_do_not_follow_in_time_are_waited_for_no_longer(
    stage: Stage, tmp_path: Path, shop: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    shop("1")
    monkeypatch.setattr("serving.change.TELL_S", 0)
    behind = Report.model_validate({"number": 0, "counts": {}})
    change = Change(stage, stage.read(), "intent", lambda *_: [behind])  # pyright: ignore[reportArgumentType]
    wanted = running_of(stage.deployed["intent"]).with_champion(release(tmp_path / "bundle-2", "2", 2))
    with pytest.raises(DeployError, match="not all of its replicas changed in the time given; what it ran before"):
        change.to(wanted, time.monotonic())
