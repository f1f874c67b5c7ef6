from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.schema.serving import ServingSpec
from serving.applications import application, package_code
from serving.bundle import BundleError
from serving.deployment import DeployError, deploy, undeploy
from serving.keys import add
from serving.rollout import Counts, Report
from tests.tiny.bundles import write_tiny_bundle


def test_code_is_packed_to_the_same_address_and_holds_only_what_serves(tmp_path: Path):
    import zipfile

    first, second = package_code(tmp_path / "a"), package_code(tmp_path / "b")
    assert first.startswith("file:///")
    assert first.endswith(".zip")
    assert Path(first).name == Path(second).name
    with zipfile.ZipFile(first.removeprefix("file://")) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"configs", "serving"}
    assert {"serving/app.py", "serving/browser/ask.html", "serving/browser/page.js"} <= {*names}


def test_every_key_is_one_that_serve_knows_because_it_ignores_the_others(tmp_path: Path):
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema

    write_tiny_bundle(tmp_path / "bundle")
    spec = ServingSpec.model_validate({})
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", "file:///code.zip", tmp_path)
    ServeApplicationSchema.model_validate(made)
    (options,) = made["deployments"]
    assert set(made) <= set(ServeApplicationSchema.model_fields)
    assert set(options) <= set(DeploymentSchema.model_fields)
    assert {"max_ongoing_requests", "max_queued_requests", "max_surge_percent", "graceful_shutdown_timeout_s"} <= set(
        options
    )


def test_replicas_come_and_go_within_the_bounds_that_a_recipe_gives(tmp_path: Path):
    from ray.serve.schema import ServeApplicationSchema

    write_tiny_bundle(tmp_path / "bundle")
    spec = ServingSpec.model_validate({"autoscaling": {"min": 0, "max": 3, "target_ongoing": 5, "upscale_delay_s": 1}})
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", "file:///code.zip", tmp_path)
    (read,) = ServeApplicationSchema.model_validate(made).deployments
    assert "num_replicas" not in made["deployments"][0]
    assert isinstance(read.autoscaling_config, dict)
    scaling = {"min_replicas": 0, "max_replicas": 3, "initial_replicas": 1, "target_ongoing_requests": 5}
    assert read.autoscaling_config.items() >= {**scaling, "upscale_delay_s": 1, "downscale_delay_s": 300}.items()


class Stage:
    """Stands in for a Ray dashboard on which all goes well: what is deployed on it, after each write."""

    address = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.deployed: dict[str, dict] = {}
        self.asks: tuple[bool, ...] = ()  # the service and the catalogue, for API keys

    def wait_gone(self, name: str, deadline: float) -> None:
        assert name not in self.deployed

    def check(self) -> dict[str, dict]:
        return self.read()

    def read(self) -> dict[str, dict]:
        return dict(self.deployed)

    def write(self, applications: dict[str, dict]) -> None:
        self.deployed = dict(applications)

    def wait(self, name: str, deadline: float) -> None:
        assert name in self.deployed

    def wait_answering(self, entry: dict, deadline: float, *asks: bool) -> None:
        assert entry["service"] in self.deployed
        self.asks = asks


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr("serving.deployment.Dashboard", lambda *_: made)
    return made


def two_versions(folder: Path) -> tuple[dict, dict]:
    """Of the service `intent`, each with code of its own, so that the second needs new replicas."""
    write_tiny_bundle(folder / "bundle")
    spec = ServingSpec.model_validate({})
    one, two = (
        application(spec, "intent", folder / "bundle", "tiny", each, f"file:///code-{each}.zip", folder)
        for each in ("1", "2")
    )
    return one, two


@pytest.mark.parametrize("fault", [SystemExit(143), ValueError("no JSON"), BundleError("rotten"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["wait", "wait_answering", "answering"])
def test_whatever_ends_a_deployment_the_version_before_is_restored(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, where: str
):
    first, second = two_versions(tmp_path)
    spec = ServingSpec.model_validate({})
    deploy("", {}, spec, first, tmp_path)
    before = stage.read()
    faults = [fault]

    def fail(*_: object) -> None:
        assert stage.deployed["intent"] == (second if faults else first)
        if faults:
            raise faults.pop()

    answering = fail if where == "answering" else lambda: None
    if where != "answering":
        monkeypatch.setattr(stage, where, fail)
    with pytest.raises(type(fault)):
        deploy("", {}, spec, second, tmp_path, answering)
    assert stage.read() == before


def test_whether_a_version_may_replace_what_runs_is_asked_before_anything_is_written(stage: Stage, tmp_path: Path):
    first, second = two_versions(tmp_path)
    spec, asked = ServingSpec.model_validate({}), []

    def allowed(running: dict | None) -> None:
        asked.append(running and running["version"])
        with pytest.raises(DeployError, match="another deployment still runs"):
            deploy("", {}, spec, second, tmp_path, timeout_s=0)
        if len(asked) > 1:
            raise ValueError("not this one")

    deploy("", {}, spec, first, tmp_path, allowed=allowed)
    before = stage.read()
    with pytest.raises(ValueError, match="not this one"):
        deploy("", {}, spec, second, tmp_path, allowed=allowed)
    assert (asked, stage.read()) == ([None, "1"], before)


def test_what_a_deployment_accepts_is_no_matter_of_the_replicas(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    spec = ServingSpec.model_validate({"accept": ["outside"]})
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", "file:///code.zip", tmp_path)
    assert "accept" not in made["args"]["serving"]


def test_what_a_service_has_to_be_true_with_is_done_while_no_other_deploys(stage: Stage, tmp_path: Path):
    first, second = two_versions(tmp_path)
    spec = ServingSpec.model_validate({})

    def answering() -> None:
        assert stage.deployed["intent"] == first
        with pytest.raises(DeployError, match="another deployment still runs"):
            deploy("", {}, spec, second, tmp_path, timeout_s=0)
        raise DeployError("no champion\nas Ray says")

    with pytest.raises(DeployError) as failed:
        deploy("", {}, spec, first, tmp_path, answering)
    said = "intent: tiny version 1 was not deployed: no champion; nothing is deployed, as before\nas Ray says"
    assert str(failed.value) == said
    assert stage.read() == {}


def made(folder: Path, service: str, keys: Path | None = None) -> dict:
    if not (folder / "bundle").exists():
        write_tiny_bundle(folder / "bundle")
    spec = ServingSpec(keys=None if keys is None else str(keys))
    return application(spec, service, folder / "bundle", "tiny", "1", "file:///code.zip", folder)


def test_the_catalogue_asks_for_keys_as_long_as_a_service_does(stage: Stage, tmp_path: Path):
    add(path := tmp_path / "keys.json", "one")
    spec = ServingSpec.model_validate({})

    def keys_of_catalogue() -> str | None:
        return stage.deployed["catalogue"]["deployments"][0]["user_config"]["keys"]

    deploy("", {}, spec, made(tmp_path, "open"), tmp_path)
    assert (stage.asks, keys_of_catalogue()) == ((False, False), None)
    deploy("", {}, spec, made(tmp_path, "closed", path), tmp_path)
    assert (stage.asks, keys_of_catalogue()) == ((True, True), str(path))
    deploy("", {}, spec, made(tmp_path, "open"), tmp_path, ask=lambda *_: [Report(number=1, counts=Counts())])
    assert (stage.asks, keys_of_catalogue()) == ((False, True), str(path))
    services = stage.deployed["catalogue"]["deployments"][0]["user_config"]["services"]
    assert [each["service"] for each in services] == ["closed", "open"]
    assert str(path) not in str(services)  # which GET /v1/models shows
    undeploy("", {}, spec, "closed", tmp_path)
    assert keys_of_catalogue() is None


def test_a_service_that_asks_no_more_is_told(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    add(path := tmp_path / "keys.json", "one")
    deploy("", {}, ServingSpec(), made(tmp_path, "intent", path), tmp_path)
    deploy("", {}, ServingSpec(), made(tmp_path, "intent"), tmp_path)
    assert caplog.messages == ["intent asked for API keys until now, and asks for none any more"]


def test_two_services_with_different_files_of_keys_are_refused(stage: Stage, tmp_path: Path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for path in (one, two):
        add(path, "a")
    deploy("", {}, ServingSpec(), made(tmp_path, "intent", one), tmp_path)
    before = stage.read()
    with pytest.raises(DeployError, match=r"^serving\.keys: .* intent has .*one.json, reply has .*two.json; give"):
        deploy("", {}, ServingSpec(), made(tmp_path, "reply", two), tmp_path)
    assert stage.read() == before
    deploy("", {}, ServingSpec(), made(tmp_path, "intent", two), tmp_path)  # in place of the first


def test_a_file_of_keys_with_which_nobody_can_ask_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^serving\.keys: .*keys\.json: no such file; python -m serving\.keys add"):
        made(tmp_path, "intent", tmp_path / "keys.json")
