"""Have a bundle answer the rows of files of any size: each row with what the bundle's endpoint answers.

    ray job submit --working-dir . -- python -m jobs.score --config configs/intent.yaml score.input=/data/week.jsonl.gz
    ... bundle=<folder> | bundle=models:/<name>@<alias>          another than <output>/bundle (replies: <output>/reply)
    ... score.format=csv score.keep='[id]' score.prefix=predicted_ score.scores=true

Writes score.output (default <output>/scores), a folder of files that hold the rows in their order: their own columns,
the answers (classify: label, score; generate: text, finish_reason, held, reason; replies: text, intent, score,
handover, reason), and the model's name and version. data.text and data.text_pair name the columns that are answered.
All rows are read and checked before the first one is answered. Interrupted, it goes on with the files that are not yet
whole.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cluster import registry
from configs.folder import FolderError, digest_json, verify
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from jobs.command import Result, main
from jobs.data.asked import Parts, check_sources, take_parts
from jobs.data.prepared import has_key
from jobs.evaluation import check_inputs, check_there
from jobs.job import Way, job
from jobs.layout import output, scores_folder, served_folder
from jobs.preflight import check_given
from jobs.scoring import MANIFEST, Asking, answer_parts, asking
from jobs.stage import Stage, made
from jobs.versions import behaviour
from serving.bundle import MANIFEST as BUNDLE
from serving.bundle import bundle_digest
from serving.runtimes import read_servable
from serving.service import Release

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the answers."""
    check_given("bundle", recipe.bundle, uri=True)
    check_sources(recipe)
    _check_folder(scores_folder(recipe), output(recipe))
    with job("score", recipe, parent) as way:
        _workers(recipe)
        scored = made(way, SCORED)
        return way.result(_metrics(scored), bundle=_asking(way).release.bundle, scores=str(scores_folder(recipe)))


def _check_folder(folder: Path, output: str) -> None:
    """Refuse a folder that holds something else: what is made takes its place."""
    if Path(output).is_relative_to(folder):
        raise UsageError(f"score.output: {folder}: the output {output} lies there; name a folder of its own")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise UsageError(
            f"score.output: {folder}: holds other files; name a folder of its own, which may not exist yet"
        )


def _workers(recipe: Recipe) -> int:
    """Processes that answer. Raises `UsageError` for more than the cluster could ever hold."""
    import ray

    threads, cores = recipe.serving.threads, int(ray.cluster_resources().get("CPU", 0))
    wanted = recipe.score.workers or max(1, cores // threads)
    if wanted * threads > cores:
        raise UsageError(
            f"score.workers: {wanted} x serving.threads={threads} = {wanted * threads} cores, the cluster has {cores}; "
            f"use at most {cores // threads} of such workers"
        )
    return wanted


def _asking(way: Way) -> Asking:
    """Which bundle is asked, and what, settled once: an alias may move."""
    return way.once("bundle that answers", lambda: _settle(way.recipe))


def _settle(recipe: Recipe) -> Asking:
    uri = recipe.bundle if recipe.bundle and recipe.bundle.startswith("models:") else None
    name = version = None
    if uri:
        name, version = registry.resolve(uri)
        folder = registry.fetch(name, version, BUNDLE)
    else:
        folder = Path(recipe.bundle or served_folder(recipe))
    check_there(folder)
    bundle = read_servable(folder)
    check_inputs(recipe, bundle)
    fields = named(bundle.record.fields)(folder) if bundle.record.fields else []
    release = Release(
        bundle=str(folder.absolute()), name=name or bundle.name, version=version or bundle_digest(folder)[:12]
    )
    return asking(bundle, release, recipe.score, recipe.serving, fields)


def _parts(way: Way) -> Parts:
    """The rows, read once a job."""
    ask = _asking(way)
    has_turns = read_servable(Path(ask.release.bundle)).chat_template is not None
    return way.once(
        "rows to answer",
        lambda: way.held.enter_context(
            take_parts(way.recipe, Path(output(way.recipe)), list(ask.columns), ask.fields, has_turns)
        ),
    )


def _key(way: Way) -> str:
    """Digest of the rows, the bundle, and what decides about answers and their files."""
    ask = _asking(way)
    parts = {"rows": _parts(way).fingerprint, "bundle": bundle_digest(Path(ask.release.bundle))}
    told = {"model": ask.release.model, "score": way.recipe.score.keyed(), "max_tokens": way.recipe.serving.max_tokens}
    return digest_json(parts | told | behaviour("score"))


def _open(way: Way, folder: Path, key: str) -> dict[str, Any] | None:
    """The manifest of the answers, whose files are whole."""
    if not has_key(folder, MANIFEST, key):
        return None
    try:
        return verify(folder, MANIFEST)
    except FolderError as error:
        log.warning("%s is made again: %s", folder.name, error)
        return None


def _tell(way: Way, scored: dict[str, Any]) -> None:
    way.run.tag(slimcart__data=scored["fingerprint"])
    way.run.metrics.log(_metrics(scored))


def _metrics(scored: dict[str, Any]) -> dict[str, float]:
    return {"rows": scored["rows"], "rows_per_second": scored["per_second"], "refused_rows": scored["refused"]}


def _make(way: Way, folder: Path, key: str) -> None:
    answer_parts(folder, key, _asking(way), _parts(way), _workers(way.recipe))


SCORED: Stage[dict[str, Any]] = Stage("score", scores_folder, _key, _open, _make, tell=_tell)


if __name__ == "__main__":
    main(run, takes=["bundle", "again"])
