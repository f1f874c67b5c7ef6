"""Check the training and validation rows and tokenise them once.

    ray job submit --working-dir . -- python -m jobs.prepare --config configs/intent.yaml

Writes <output>/prepared: Parquet shards with lengths. Rows that did not change are not tokenised again.
The test rows are not opened here; only the final evaluation reads them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import session, tracking
from configs.folder import commit, digest_json
from configs.loader import UsageError
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, Prepared, has_key
from jobs.models.reference import read_reference, read_tokenizer
from jobs.recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1  # of the shards; raised with their columns, so that older folders are made anew

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `prepare`."""
    with tracking.run(
        "prepare", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        session.connect()
        prepared = prepare(recipe)
        run.tag(slimcart__data=prepared.key)
        metrics = summary(prepared)
        run.metrics.log(metrics)
    return Result("prepare", run.id, str(prepared.folder), metrics)


def prepare(recipe: Recipe) -> Prepared:
    """The prepared rows of a recipe, made or found. Raises `UsageError` for a bad row before any worker starts."""
    from jobs.data.tokenise import checked, classes, write_shards
    from jobs.models.encoder import grades_of, load_tokenizer

    folder = Path(output(recipe), "prepared")
    train, train_digest = checked(recipe.data, "train")
    validation, validation_digest = checked(recipe.data, "validation")
    labels = classes(train, {"validation": validation}, recipe.data)
    if recipe.teacher.head == "grades":
        grades_of(labels)  # refused now, not by the first worker
    if recipe.teacher.bundle:
        labels, tokenizer = known_to(Path(recipe.teacher.bundle), labels)
    else:
        tokenizer = load_tokenizer(recipe.teacher.model)
    tokenizer.enable_truncation(recipe.data.max_length)
    fingerprints = {"train": train_digest, "validation": validation_digest}
    key = digest_json(
        {"format": FORMAT, "fingerprints": fingerprints, "tokenizer": tokenizer.to_str(), "labels": labels}
    )
    if has_key(folder, MANIFEST, key):
        log.info("prepared rows are there already, unchanged: %s", folder)
        return Prepared.open(folder)

    def fill(aside: Path) -> dict[str, Any]:
        tokenizer.save(str(aside / TOKENIZER))
        write_shards([train, validation], aside / ROWS, tokenizer.to_str(), labels)
        return {
            "key": key,
            "fingerprints": fingerprints,
            "labels": labels,
            "max_length": recipe.data.max_length,
            "pairs": recipe.data.text_pair is not None,
            "rows": {"train": len(train), "validation": len(validation)},
        }

    log.info("tokenising %d training and %d validation rows, %d classes", len(train), len(validation), len(labels))
    commit(folder, MANIFEST, fill)
    return Prepared.open(folder)


def known_to(teacher: Path, labels: list[str]) -> tuple[list[str], Tokenizer]:
    """Classes in the order of a given teacher, and its tokenizer. Raises `UsageError` for a class it never learned."""
    reference = read_reference(teacher, "python -m jobs.finetune")
    if unknown := sorted(set(labels) - set(reference.labels)):
        raise UsageError(
            f"teacher.bundle: {teacher}: never learned the label {unknown[0]!r} of data.train ({len(unknown)} such "
            "labels); fine-tune a teacher on these rows, or remove them"
        )
    return list(reference.labels), read_tokenizer(teacher / reference.tokenizer)


def output(recipe: Recipe) -> str:
    """The absolute output folder that `Recipe.on_driver` settled."""
    assert recipe.output is not None
    return recipe.output


def summary(prepared: Prepared) -> dict[str, float]:
    """Rows, classes and tokens, as metrics."""
    metrics: dict[str, float] = {"classes": len(prepared.labels)}
    for split in ("train", "validation"):
        examples = prepared.examples(split)
        metrics |= {f"{split}_rows": len(examples), f"{split}_tokens": len(examples.ids)}
        metrics[f"{split}_mean_tokens"] = len(examples.ids) / len(examples)
    return metrics


if __name__ == "__main__":
    main(run)
