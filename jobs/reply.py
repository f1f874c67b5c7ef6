"""Give a classifier replies: the template of a message's class, or a handover where the class is not sure enough.

    ray job submit --working-dir . -- python -m jobs.reply --config configs/reply.yaml
    ... bundle=<folder> | bundle=models:/<name>@<alias>          another classifier, a cascade too, than <output>/bundle
    ... reply.source=auto reply.decoder=<bundle of a decoder>    the better one on validation rows

Templates come from the column `reply.column` of the training rows, or are written by a decoder. The threshold is the
lowest one at which the answered validation rows have the right class often enough (`reply.min_right`). Writes
<output>/reply, a bundle of kind `reply`, and registers it as models:/<name>@challenger, which `deploy` takes.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import quiet, registry, version
from cluster.registry import CHALLENGER
from configs.folder import digest_json
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.command import Result, main
from jobs.data.source import told as as_bytes
from jobs.job import Way, job, validation_rows
from jobs.layout import bundle_folder, reply_folder
from jobs.measure.card import card
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import measure_candidate
from jobs.models.reference import made_from
from jobs.preflight import check_given, check_reply
from jobs.stage import Stage, made
from jobs.versions import behaviour
from serving.bundle import MANIFEST, Bundle, BundleError, bundle_digest, read_description, with_metrics
from serving.runtimes import read_servable
from tuning.pareto import METRIC

if TYPE_CHECKING:
    from jobs.tasks.classify.replies import Told

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around the bundle, which is measured on the validation rows and registered."""
    if recipe.reply.column is None:
        raise UsageError(
            "reply.column: missing; name the column of the training and validation rows that holds replies"
        )
    check_given("bundle", recipe.bundle, uri=True)
    check_reply(recipe)
    with job("reply", recipe, parent, cluster=False) as way:
        uri = registered(way)
        return way.result(made(way, REPLY).metrics, bundle=str(reply_folder(recipe)), model_uri=uri)


def registered(way: Way) -> str:
    """Make the bundle, or find it, and have the registry know it as challenger; its URI."""
    made(way, REPLY)
    folder = reply_folder(way.recipe)
    uri = registry.register_once(way.recipe.name, way.run, folder, bundle_digest(folder), CHALLENGER)
    log.info("%s, which replies, is %s", uri, CHALLENGER)
    return uri


def _given(way: Way) -> tuple[Path, Path | None]:
    """The folders of the classifier, and of the decoder where one is asked, fetched once."""

    def fetch() -> tuple[Path, Path | None]:
        recipe = way.recipe
        decoder = recipe.reply.decoder
        classifier = registry.folder(recipe.bundle or str(bundle_folder(recipe)), MANIFEST)
        return classifier, None if decoder is None else registry.folder(decoder, MANIFEST)

    return way.once("bundles of replies", fetch)


def _rows(way: Way) -> tuple[list[Told], list[Told]]:
    """Training and validation rows with their replies, read once a job."""
    from jobs.tasks.classify.replies import told

    return way.once("rows of replies", lambda: (told(way.recipe, "train"), told(way.recipe, "validation")))


def _key(way: Way) -> str:
    """Digest of the bundles, the rows with their replies, and what decides about templates and threshold."""
    recipe, (classifier, decoder) = way.recipe, _given(way)
    if (kind := read_servable(classifier).kind) is not None:
        raise BundleError(f"{classifier}: a bundle of kind {kind!r}; give the classifier that it was made of")
    parts: dict[str, Any] = {"bundle": bundle_digest(classifier), "decoder": decoder and bundle_digest(decoder)}
    parts["rows"] = [[as_bytes(each.row).decode(), each.reply, each.values] for split in _rows(way) for each in split]
    parts |= {"reply": recipe.reply.keyed(), "margin": recipe.budget.margin, "machine": machine_kind()}
    return digest_json(parts | {"name": recipe.name} | behaviour("reply", "measure"))


def _make(way: Way, folder: Path, key: str) -> None:
    from jobs.tasks.classify.replies import make
    from serving.reply import with_replies
    from serving.runtime import load_bundle

    recipe, (classifier, decoder) = way.recipe, _given(way)
    with quiet.at_work():
        replies, source, figures = make(recipe, load_bundle(classifier), *_rows(way), decoder)
    about = {"bundle": bundle_digest(classifier), "decoder": decoder and bundle_digest(decoder)}
    about |= {"source": source, **figures}
    origin = {"run_id": way.run.id, "key": key, "reply": {**about, "code": version.code_version()[1]}}
    with_replies(classifier, folder, replies, origin)
    measured, files = measure_candidate(recipe, folder, snapshot=validation_rows(way))
    measured[METRIC] = measured[f"validation_{recipe.judged_by.metric}"]
    measured |= {f"validation_{name}": value for name, value in figures.items()}
    carried = read_description(classifier).metrics  # such as what it keeps of its teacher: its model is the same
    with_metrics(folder, {**carried, **measured}, functools.partial(card, recipe=recipe), files)


def _open(way: Way, folder: Path, key: str) -> Bundle | None:
    """The bundle's manifest. A bundle without metrics was not measured before the job was killed."""
    bundle = read_description(folder) if made_from(folder, key) else None
    return bundle if bundle and bundle.metrics else None


def _tell(way: Way, bundle: Bundle) -> None:
    assert bundle.reply is not None
    way.run.metrics.log(bundle.metrics | {"reply_threshold": bundle.reply.threshold})
    log.info(
        "answers from a probability of %.4f on: of the validation rows %.1f %% are handed over",
        *(bundle.reply.threshold, 100 * bundle.metrics["validation_handed_over"]),
    )


REPLY: Stage[Bundle] = Stage("reply", reply_folder, _key, _open, _make, tell=_tell)


if __name__ == "__main__":
    main(run, takes=["bundle", "again"])
