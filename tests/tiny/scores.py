"""Rows that tiny bundles answer, without a job around them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.schema.recipe import Recipe
from configs.schema.score import ScoreSpec
from configs.schema.serving import ServingSpec
from configs.schema.tasks import named
from jobs.data.asked import Parts, take_parts
from jobs.data.formats import files
from jobs.scoring import Asking, asking
from serving.bundle import bundle_digest, read_bundle
from serving.service import Release


def asking_of(bundle: Path, serving: Mapping[str, Any] | None = None, **score: Any) -> Asking:
    """What `score` asks of a bundle."""
    found = read_bundle(bundle)
    fields = named(found.record.fields)(bundle) if found.record.fields else []
    release = Release(bundle=str(bundle), name=found.name, version=bundle_digest(bundle)[:12])
    return asking(
        found, release, ScoreSpec.model_validate(score), ServingSpec.model_validate(dict(serving or {})), fields
    )


@contextmanager
def parts_of(folder: Path, rows: Sequence[Mapping[str, Any]], ask: Asking, **data: Any) -> Iterator[Parts]:
    """The parts of `rows`, out of a file."""
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = ask.score.model_dump() | {"input": str(file)}
    recipe = Recipe.model_validate({"name": "tiny", "task": ask.task, "data": {"test": None, **data}, "score": score})
    has_turns = read_bundle(Path(ask.release.bundle)).chat_template is not None
    with take_parts(recipe, folder, list(ask.columns), ask.fields, has_turns) as parts:
        yield parts


def written_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder of files, as this package reads them."""
    return [record for _, record in files.records(str(folder), str(folder), None)]
