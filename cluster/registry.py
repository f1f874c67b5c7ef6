"""The MLflow model registry: a version is a bundle folder kept as the artifact of the run that made it."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster import session
from cluster.client import again, client, in_a_line, may_pass
from cluster.session import JobError
from cluster.tracking import Run
from configs.folder import describe_files, digest_file, digest_json, replace, verify
from configs.loader import UsageError

CHAMPION, PREVIOUS = "champion", "previous"

CHALLENGER = "challenger"

MODEL_URI = re.compile(r"^models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))$")
ARTIFACT = "bundle"
BUNDLE_TAG = "slimcart.bundle"  # of a version: SHA-256 of the manifest, which holds those of all files
REGISTER_SECONDS = 60.0
ASK_SECONDS = 10.0  # for look-ups


def register(name: str, run: Run, bundle: Path, tags: Mapping[str, str], alias: str) -> str:
    """Upload `bundle` to its run, make it the next version of model `name` under `alias`; returns models:/name/N.

    A version is made of a whole upload only, and the alias moves last. The same bundle registered again, after a lost
    answer or by the next job, is the same version. Raises `JobError` where MLflow does not answer for REGISTER_SECONDS.
    """
    folder = f"{ARTIFACT}-{digest_json(dict(describe_files(bundle, '')))[:12]}"  # never over another bundle's files

    def once() -> str:
        to, run_id = client(), run.opened()
        to.log_artifacts(run_id, str(bundle), folder)
        _ensure_model(name)
        source = f"{to.get_run(run_id).info.artifact_uri}/{folder}"
        mine = to.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        version = next((each.version for each in mine if each.source == source), None)
        if version is None:
            version = to.create_model_version(
                name,
                source,
                run_id,
                tags=dict(tags),
                await_creation_for=0,  # there is nothing to wait for
            ).version
        to.set_registered_model_alias(name, alias, version)
        return f"models:/{name}/{version}"

    try:
        return again(once, REGISTER_SECONDS)
    except Exception as error:
        if not may_pass(error):
            raise
        raise JobError(
            f"{bundle}: not registered, but kept: MLflow at {session.tracking_uri()} did not take it within "
            f"{REGISTER_SECONDS:.0f} s ({in_a_line(error)}); once it does, the same command registers it"
        ) from None


def register_once(name: str, run: Run, bundle: Path, digest: str, alias: str) -> str:
    """`register` a bundle, or set the alias on its version where the bundle of this digest has one; the URI of it."""
    known = [version for each, version in versions_of(digest) if each == name]
    if not known:
        return register(name, run, bundle, {BUNDLE_TAG: digest}, alias)
    set_alias(name, alias, known[-1])
    return f"models:/{name}/{known[-1]}"


def _ensure_model(name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def versions_of(digest: str) -> list[tuple[str, str]]:
    """(name, version) of every registered version of the bundle with this digest. Raises `JobError`."""
    with _as_job_error(f"bundle {digest[:12]}: its versions not looked up"):
        versions = again(lambda: client().search_model_versions(f"tags.`{BUNDLE_TAG}` = '{digest}'"), ASK_SECONDS)
    return [(each.name, str(each.version)) for each in versions]


def tags(name: str, version: str) -> dict[str, str]:
    """Tags of a version; empty where it is not registered. Raises `JobError` where MLflow does not answer."""
    from mlflow.exceptions import MlflowException

    with _as_job_error(f"models:/{name}/{version}: not looked up"):
        try:
            return again(lambda: client().get_model_version(name, version), ASK_SECONDS).tags
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}


def set_tags(name: str, version: str, tags: Mapping[str, str], seconds: float | None = None) -> None:
    """Set tags of a version, tried for `seconds`. Raises `JobError` where MLflow does not take them."""

    def once() -> None:
        for key, value in tags.items():
            client().set_model_version_tag(name, version, key, value)

    with _as_job_error(f"models:/{name}/{version}: tags not set"):
        again(once, REGISTER_SECONDS if seconds is None else seconds)


def resolve(uri: str) -> tuple[str, str]:
    """(name, version) of models:/<name>@<alias> or models:/<name>/<version>. Raises `UsageError`."""
    from mlflow.exceptions import MlflowException

    match = MODEL_URI.match(uri)
    if not match:
        raise UsageError(f"bundle: {uri!r} is neither a folder nor models:/<name>@<alias> nor models:/<name>/<version>")
    name, alias, version = match["name"], match["alias"], match["version"]
    place(name, version or "1")  # before anything is asked

    def ask() -> str:
        ask_alias, ask_version = client().get_model_version_by_alias, client().get_model_version
        return str((ask_alias(name, alias) if alias else ask_version(name, version)).version)

    try:
        return name, again(ask, ASK_SECONDS)
    except MlflowException as error:
        raise JobError(f"{uri}: not in the registry: {in_a_line(error)}") from None


def alias_version(name: str, alias: str) -> str | None:
    """Version that `alias` of model `name` points to, if any. Raises `JobError` where MLflow does not answer."""
    with _as_job_error(f"models:/{name}: aliases not read"):
        aliases = again(lambda: client().get_registered_model(name), ASK_SECONDS).aliases
    return str(aliases[alias]) if alias in aliases else None


def set_alias(name: str, alias: str, version: str | None, seconds: float | None = None) -> None:
    """Point `alias` of model `name` to `version`, or to none. Raises `JobError` where MLflow does not take it.

    The request is tried for `seconds`, by default REGISTER_SECONDS.
    """

    def once() -> None:
        if version is None:
            client().delete_registered_model_alias(name, alias)
        else:
            client().set_registered_model_alias(name, alias, version)

    with _as_job_error(f"models:/{name}: alias {alias!r} not set"):
        again(once, REGISTER_SECONDS if seconds is None else seconds)


@contextlib.contextmanager
def _as_job_error(what: str) -> Iterator[None]:
    """Turn MLflow's errors into a `JobError` of one line that begins with `what`."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        raise JobError(f"{what}: MLflow at {session.tracking_uri()}: {in_a_line(error)}") from None


def folder(bundle: str, manifest_name: str) -> Path:
    """The folder of `bundle`, which is a folder itself or the URI of a model to fetch."""
    return fetch(*resolve(bundle), manifest_name) if bundle.startswith("models:") else Path(bundle)


def fetch(name: str, version: str, manifest_name: str) -> Path:
    """The bundle of a version as a folder under $SLIMCART_HOME/models, downloaded once. Raises `JobError`.

    Versions count from 1 again in a new database, or where a model was deleted and registered again. So a folder is
    named after the version and the digest of its bundle, where that is known.
    """
    with _as_job_error(f"models:/{name}/{version}: not looked up"):
        digest = again(lambda: client().get_model_version(name, version), ASK_SECONDS).tags.get(BUNDLE_TAG)
    folder = place(name, f"{version}-{digest[:12]}" if digest else version)
    manifest = folder / manifest_name
    if not manifest.exists() or digest not in (None, digest_file(manifest)):
        _download(name, version, folder, manifest_name)
        if digest not in (None, actual := digest_file(manifest)):
            raise JobError(f"models:/{name}/{version}: registered as {digest}, but {manifest_name} there is {actual}")
    return folder


def place(name: str, version: str) -> Path:
    """Where a version of a model is kept. Raises `UsageError` where its names would lead elsewhere."""
    for part in (name, version):
        if part in ("", ".", "..") or "/" in part or "\0" in part:
            raise UsageError(f"bundle: models:/{name}: {part!r} cannot be the name of a folder; register it by another")
    return session.home() / "models" / name / version


def _download(name: str, version: str, folder: Path, manifest_name: str) -> None:
    """Download what was uploaded for a version, verified, as `folder`."""
    import mlflow.artifacts

    source = again(lambda: client().get_model_version_download_uri(name, version), ASK_SECONDS)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as aside:
        downloaded = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=aside, tracking_uri=session.tracking_uri()
            )
        )
        verify(downloaded, manifest_name)
        target = Path(aside) / "whole"
        shutil.move(downloaded, target)
        replace(target, folder)
