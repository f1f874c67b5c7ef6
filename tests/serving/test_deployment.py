from pathlib import Path

import pytest

from configs.schema.serving import ServingSpec
from serving.bundle import BundleError
from serving.deployment import DeployError, application, deploy, package_code
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
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", "file:///code.zip")
    ServeApplicationSchema.model_validate(made)
    (options,) = made["deployments"]
    assert set(made) <= set(ServeApplicationSchema.model_fields)
    assert set(options) <= set(DeploymentSchema.model_fields)
    assert {"max_ongoing_requests", "max_queued_requests", "max_surge_percent", "graceful_shutdown_timeout_s"} <= set(
        options
    )


class Stage:
    """Stands in for a Ray dashboard on which all goes well: what is deployed on it, after each write."""

    address = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.deployed: dict[str, dict] = {}

    def check(self) -> dict[str, dict]:
        return self.read()

    def read(self) -> dict[str, dict]:
        return dict(self.deployed)

    def write(self, applications: dict[str, dict]) -> None:
        self.deployed = dict(applications)

    def wait(self, name: str, deadline: float) -> None:
        assert name in self.deployed

    def wait_answering(self, entry: dict, deadline: float) -> None:
        assert entry["service"] in self.deployed


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr("serving.deployment.Dashboard", lambda *_: made)
    return made


def two_versions(folder: Path) -> tuple[dict, dict]:
    """Of the service `intent`."""
    write_tiny_bundle(folder / "bundle")
    spec = ServingSpec.model_validate({})
    one, two = (
        application(spec, "intent", folder / "bundle", "tiny", version, "file:///code.zip") for version in ("1", "2")
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
    made = application(spec, "intent", tmp_path / "bundle", "tiny", "1", "file:///code.zip")
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
