"""The MLflow model registry: a version is a bundle folder kept as the artifact of the run that made it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import session, tracking
from cluster.session import JobError
from configs.folder import replace, verify
from configs.loader import UsageError

MODEL_URI = re.compile(r"^models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))$")
ARTIFACT = "bundle"


def register(name: str, run: tracking.Run, bundle: Path, tags: Mapping[str, str], alias: str) -> str:
    """Upload `bundle` to its run, make it the next version of model `name` under `alias`; returns models:/name/N."""
    from mlflow.exceptions import MlflowException

    run.artifact(bundle, ARTIFACT)
    client = tracking.client()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run.id).info.artifact_uri}/{ARTIFACT}"
    version = client.create_model_version(name, source=source, run_id=run.id, tags=dict(tags)).version
    client.set_registered_model_alias(name, alias, version)
    return f"models:/{name}/{version}"


def resolve(uri: str) -> tuple[str, str]:
    """(name, version) of models:/<name>@<alias> or models:/<name>/<version>. Raises `UsageError`."""
    from mlflow.exceptions import MlflowException

    match = MODEL_URI.match(uri)
    if not match:
        raise UsageError(f"bundle: {uri!r} is neither a folder nor models:/<name>@<alias> nor models:/<name>/<version>")
    client = tracking.client()
    try:
        if match["alias"]:
            return match["name"], str(client.get_model_version_by_alias(match["name"], match["alias"]).version)
        return match["name"], str(client.get_model_version(match["name"], match["version"]).version)
    except MlflowException as error:
        raise JobError(f"{uri}: not in the registry: {str(error).splitlines()[0]}") from None


def alias_version(name: str, alias: str) -> str | None:
    """Version that `alias` of model `name` points to, if any."""
    aliases = tracking.client().get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


def set_alias(name: str, alias: str, version: str) -> None:
    """Point `alias` of model `name` to `version`."""
    tracking.client().set_registered_model_alias(name, alias, version)


def folder(bundle: str, manifest_name: str) -> Path:
    """The folder of `bundle`: itself, or what lies there where it is a model's URI."""
    return fetch(*resolve(bundle), manifest_name) if bundle.startswith("models:") else Path(bundle)


def fetch(name: str, version: str, manifest_name: str) -> Path:
    """The bundle of a version as a folder under $SLIMCART_HOME/models, downloaded once."""
    import mlflow.artifacts

    folder = session.home() / "models" / name / version
    if not (folder / manifest_name).exists():
        source = tracking.client().get_model_version_download_uri(name, version)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as aside:
            got = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=aside, tracking_uri=session.tracking_uri()
                )
            )
            verify(got, manifest_name)
            target = Path(aside) / "whole"
            shutil.move(got, target)
            replace(target, folder)
    return folder
