"""A registered model on its way into service: what the gate sees of it, and the aliases that move with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.registry import CHAMPION, PREVIOUS
from cluster.session import JobError
from configs.folder import FolderError
from configs.schema.recipe import Recipe
from jobs.measure import gate
from jobs.measure.gate import Objected, Release
from serving.bundle import MANIFEST, Bundle, bundle_bytes, bundle_digest, read_description
from serving.dashboard import DeployError

log = logging.getLogger(__name__)

SERVED_TAG = "slimcart.served."  # begins the tag of a version that says when it became champion; the service follows
WHY_TAG = "slimcart.why."  # the same of why it did
RETURNED_TAG = "slimcart.returned."  # the same of when it was tried and sent back, and why


def _registered(name: str, version: str, folder: Path, bundle: Bundle, recipe: Recipe) -> Release:
    """A version as the gate sees it."""
    tags = registry.tags(name, version)
    return Release(
        name,
        version,
        bundle.labels,
        gate.evidence(tags, bundle_digest(folder), recipe.judged_by.metric),
        evidence(bundle),
        served_here=f"{SERVED_TAG}{recipe.service}" in tags,
        served=version in (registry.alias_version(name, alias) for alias in (CHAMPION, PREVIOUS)),
    )


def _champion(name: str, running: Mapping[str, Any] | None, metric: str) -> Release | None:
    """What the service runs; where it runs nothing the model's champion, if there is one."""
    version = running["version"] if running else registry.alias_version(name, CHAMPION)
    if version is None:
        return None
    name = running["name"] if running else name
    try:
        folder = Path(running["bundle"]) if running else registry.fetch(name, version, MANIFEST)
        labels, digest = read_description(folder).labels, bundle_digest(folder)
    except (FolderError, JobError) as error:
        log.warning("models:/%s/%s: not read: %s", name, version, error)
        return Release(name, version, None)
    return Release(name, version, labels, gate.evidence(registry.tags(name, version), digest, metric))


def ask_gate(release: Release, running: Mapping[str, Any] | None, recipe: Recipe) -> list[Objected]:
    """What speaks against `release` and was accepted. Raises `JobError` with what was not."""
    champion = _champion(release.name, running, recipe.judged_by.metric)
    found = gate.objections(release, champion, recipe.budget)
    if words := gate.refused(found, recipe.serving.accept):
        raise JobError(f"{release.uri}: not deployed: {words}")
    if release.served_here:
        log.info("%s has served %s before, and comes back", release.uri, recipe.service)
    elif champion and (words := gate.not_compared(release, champion)):
        log.warning("%s", words)
    if found:
        log.warning("%s: accepted: %s", release.uri, gate.listed(found))
    return found


def now() -> str:
    """The time as tags say it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_champion(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Move the aliases to `version` and set its `tags`, or leave aliases where they were. Raises a `DeployError` of one
    line."""
    try:
        before = {alias: registry.alias_version(name, alias) for alias in (CHAMPION, PREVIOUS)}
        with _put_back(name, before):
            if before[CHAMPION] not in (None, version):
                registry.set_alias(name, PREVIOUS, before[CHAMPION])
            registry.set_alias(name, CHAMPION, version)
            registry.set_tags(name, version, tags)
    except JobError as error:
        raise DeployError(str(error)) from None


@contextmanager
def _put_back(name: str, aliases: Mapping[str, str | None]) -> Iterator[None]:
    """Around what moves `aliases`: whatever ends it early, they are set again, as one may have moved unanswered."""
    try:
        yield
    except BaseException as error:
        try:
            for alias, version in aliases.items():
                registry.set_alias(name, alias, version, registry.ASK_SECONDS)
        except JobError:
            words = ", ".join(f"{alias} {version or 'unset'}" for alias, version in aliases.items())
            log.error("models:/%s: aliases may have moved; before: %s", name, words)
            if isinstance(error, JobError):
                raise JobError(f"{error}; aliases may have moved, before: {words}") from None
        raise


def evidence(bundle: Bundle) -> dict[str, float]:
    """What the bundle's manifest says was measured on it, with validation rows, its size counted anew."""
    return {**bundle.metrics, "megabytes": bundle_bytes(bundle) / 1e6}
