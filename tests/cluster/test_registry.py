from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.artifacts
import pytest

from cluster import registry, tracking
from cluster.client import client
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import FolderError
from configs.loader import UsageError
from serving.bundle import MANIFEST, bundle_digest, read_bundle
from tests.faults.proxy import Fault, in_front_of
from tests.tiny.bundles import write_tiny_bundle

NAME = "tiny-registry"


@pytest.fixture(scope="module")
def bundles(on_mlflow: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles, registered one after the other."""
    folder = tmp_path_factory.mktemp("registry")
    made = []
    with tracking.run("tune", experiment="tests of the registry", recipe={}) as run:
        for seed in (1, 2):
            made.append(folder / str(seed))
            write_tiny_bundle(made[-1], seed=seed)
            uri = registry.register(NAME, run, made[-1], {"seed": str(seed)}, "challenger")
            assert uri == f"models:/{NAME}/{seed}"
            assert registry.resolve(f"models:/{NAME}@challenger") == (NAME, str(seed))
    return made


def test_each_registration_is_a_version_of_its_own_and_the_first_is_kept(bundles: list[Path]):
    for version in ("1", "2"):
        assert registry.resolve(f"models:/{NAME}/{version}") == (NAME, version)
        assert client().get_model_version(NAME, version).tags == {"seed": version}
    assert registry.alias_version(NAME, "challenger") == "2"
    assert registry.alias_version(NAME, "champion") is None


def test_a_version_is_fetched_whole_and_once(bundles: list[Path], on_mlflow: Cluster, monkeypatch: Any):
    folder = registry.fetch(NAME, "2", MANIFEST)
    assert folder == on_mlflow.home / "models" / NAME / "2"
    assert bundle_digest(folder) == bundle_digest(bundles[1])
    read_bundle(folder)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: pytest.fail("downloaded again"))
    assert registry.fetch(NAME, "2", MANIFEST) == folder
    assert [path.name for path in folder.parent.iterdir()] == ["2"]


def test_a_download_that_is_damaged_is_refused_and_not_kept(
    bundles: list[Path], on_mlflow: Cluster, monkeypatch: pytest.MonkeyPatch
):
    download = mlflow.artifacts.download_artifacts

    def cut_short(**given: Any) -> str:
        folder = download(**given)
        model = Path(folder, "model.onnx")
        model.write_bytes(model.read_bytes()[:-1])
        return folder

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", cut_short)
    with pytest.raises(FolderError, match=r"model\.onnx: \d+ bytes, the manifest says"):
        registry.fetch(NAME, "1", MANIFEST)
    monkeypatch.undo()
    assert not (on_mlflow.home / "models" / NAME / "1").exists()


def registered(name: str, bundle: Path, folder: Path, digest: str | None = None) -> str:
    """Register `bundle` as the next version of model `name`; returns its URI."""
    with tracking.run("tune", experiment="tests of the registry", recipe={"output": str(folder)}) as run:
        return registry.register(name, run, bundle, {registry.BUNDLE_TAG: digest or bundle_digest(bundle)}, "champion")


def test_another_model_under_the_same_number_is_fetched_beside_the_first(on_mlflow: Cluster, tmp_path: Path):
    """As of a database made anew; what serves the first goes on to find it."""
    name, fetched = "made-anew", []
    for seed in (1, 2):
        write_tiny_bundle(tmp_path / str(seed), seed=seed)
        assert registered(name, tmp_path / str(seed), tmp_path) == f"models:/{name}/1"
        fetched.append(registry.fetch(name, "1", MANIFEST))
        client().delete_registered_model(name)
    assert [bundle_digest(each) for each in fetched] == [bundle_digest(tmp_path / seed) for seed in ("1", "2")]


def test_a_fetched_folder_that_was_changed_is_fetched_again(on_mlflow: Cluster, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    registered("changed", tmp_path / "bundle", tmp_path)
    manifest = registry.fetch("changed", "1", MANIFEST) / MANIFEST
    manifest.write_text(manifest.read_text() + " ")
    assert bundle_digest(registry.fetch("changed", "1", MANIFEST)) == bundle_digest(tmp_path / "bundle")


def test_an_upload_that_is_not_what_was_registered_is_refused(on_mlflow: Cluster, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    registered("other", tmp_path / "bundle", tmp_path, digest="0" * 64)
    with pytest.raises(JobError, match=rf"^models:/other/1: registered as {'0' * 64}, but {MANIFEST} there is \w+$"):
        registry.fetch("other", "1", MANIFEST)


def test_an_alias_is_taken_away_also_where_there_is_none(bundles: list[Path]):
    registry.set_alias(NAME, "passing", "1")
    for _ in range(2):
        registry.set_alias(NAME, "passing", None)
        assert registry.alias_version(NAME, "passing") is None


def test_tags_are_set_and_read_and_what_is_not_registered_has_none(bundles: list[Path]):
    registry.set_tags(NAME, "1", {"slimcart.test.a": "{}", "slimcart.accepted": "worse: it is"})
    assert registry.tags(NAME, "1").items() >= {"slimcart.test.a": "{}", "seed": "1"}.items()
    assert registry.tags(NAME, "99") == registry.tags("unheard", "1") == {}


def test_versions_are_found_by_the_digest_of_their_bundle(on_mlflow: Cluster, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    digest = "d" * 64
    for name in ("found", "found-too"):
        registered(name, tmp_path / "bundle", tmp_path, digest)
    assert sorted(registry.versions_of(digest)) == [("found", "1"), ("found-too", "1")]
    assert registry.versions_of("e" * 64) == []


def test_an_alias_moves(bundles: list[Path]):
    registry.set_alias(NAME, "previous", "2")
    registry.set_alias(NAME, "previous", "1")
    assert registry.resolve(f"models:/{NAME}@previous") == (NAME, "1")


@pytest.mark.parametrize("uri", ["models:/tiny", "models:tiny@champion", "models:/a/b/1", "models:/tiny/one", "tiny@x"])
def test_what_is_no_model_uri_is_a_usage_error(uri: str):
    with pytest.raises(UsageError, match=rf"^bundle: {re.escape(repr(uri))} is neither a folder nor models:/<name>@"):
        registry.resolve(uri)


@pytest.mark.parametrize("uri", [f"models:/{NAME}@unheard", f"models:/{NAME}/99", "models:/unheard@champion"])
def test_what_is_not_registered_is_one_line(bundles: list[Path], uri: str):
    with pytest.raises(JobError, match=rf"^{re.escape(uri)}: not in the registry: .+$") as failed:
        registry.resolve(uri)
    assert "\n" not in str(failed.value)


def aliases(name: str) -> dict[str, str]:
    """Of all models with this name; empty where there is none."""
    return {
        alias: version
        for each in client().search_registered_models(f"name = '{name}'")
        for alias, version in each.aliases.items()
    }


@pytest.mark.parametrize(
    ("part", "fault", "looks"),
    [
        ("/bundle-", "500", True),
        ("/bundle-", "lose", True),
        ("alias", "drop", True),
        ("model-versions/create", "lose", True),
        ("model-versions/create", "lose", False),  # for the version that it may have made already
    ],
)
def test_a_registration_that_was_broken_off_anywhere_is_one_version_in_the_end(
    on_mlflow: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, fault: Fault, looks: bool
):
    name, alias = "broken-off", f"{part.strip('/-').replace('/', '-')}-{fault}-{looks}"
    write_tiny_bundle(tmp_path / "bundle")
    before = len(client().search_model_versions(f"name = '{name}'"))
    with (
        in_front_of(on_mlflow.mlflow_url) as proxy,
        tracking.run("tune", experiment="tests of the registry", recipe={"output": str(tmp_path)}) as run,
    ):
        monkeypatch.setattr(registry, "REGISTER_SECONDS", 0.0)  # one try
        if not looks:
            monkeypatch.setattr("mlflow.MlflowClient.search_model_versions", lambda *_: [])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        proxy.break_first(1, part, fault)
        with pytest.raises(
            JobError, match=r"^/.*/bundle: not registered, but kept: .*; once it does, the same command"
        ):
            registry.register(name, run, tmp_path / "bundle", {}, alias)
        assert alias not in aliases(name), "no alias before its version"
        uris = {registry.register(name, run, tmp_path / "bundle", {}, alias) for _ in range(2)}
        monkeypatch.undo()
    made = client().search_model_versions(f"name = '{name}'")
    assert len(made) - before == (1 if looks else 3)
    assert len(uris) == (1 if looks else 2)
    read_bundle(registry.fetch(name, str(aliases(name)[alias]), MANIFEST))


def test_two_bundles_of_one_run_lie_apart(on_mlflow: Cluster, tmp_path: Path):
    with tracking.run("tune", experiment="tests of the registry", recipe={"output": str(tmp_path)}) as run:
        for seed in (1, 2):
            write_tiny_bundle(tmp_path / str(seed), seed=seed)
            registry.register("apart", run, tmp_path / str(seed), {}, f"seed-{seed}")
    for seed in (1, 2):
        found = registry.fetch(*registry.resolve(f"models:/apart@seed-{seed}"), MANIFEST)
        assert bundle_digest(found) == bundle_digest(tmp_path / str(seed))


@pytest.mark.parametrize("uri", ["models:/..@x", "models:/../3", "models:/.@champion", "models:/a\0b@x"])
def test_a_name_that_leads_out_of_its_folder_is_refused_before_anyone_is_asked(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "client", lambda: pytest.fail("asked"))
    with pytest.raises(UsageError, match=r"^bundle: models:/"):
        registry.folder(uri, MANIFEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["../../../../out", "/" + "0" * 63, ".." + "0" * 62])
def test_a_digest_of_the_registry_leads_nowhere_either(digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Registry:
        def get_model_version(self, name: str, version: str) -> Any:
            return SimpleNamespace(tags={registry.BUNDLE_TAG: digest})

    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "client", Registry)
    monkeypatch.setattr(registry, "_download", lambda *given: pytest.fail(f"fetched {given}"))
    if "/" in digest[:12]:
        with pytest.raises(UsageError, match="cannot be the name of a folder"):
            registry.fetch("tiny", "1", MANIFEST)
    else:
        assert registry.place("tiny", f"1-{digest[:12]}").parent == tmp_path / "home" / "models" / "tiny"
    assert list(tmp_path.iterdir()) == []


def test_a_usual_name_has_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path))
    for name in ("intent", "intent.v2", "...", "..intent"):
        assert registry.place(name, "3") == tmp_path / "models" / name / "3"
