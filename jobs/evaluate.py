"""Measure an exported bundle on the test file, beside its teacher: metric, latency, throughput, bytes, memory.

    ray job submit --working-dir . -- python -m jobs.evaluate --config configs/intent.yaml
    ... bundle=<folder> | bundle=models:/<name>@<alias>   data.test=<file>   teacher.bundle=<folder>

Everything is measured on the exported file in fresh processes with pinned threads; latencies of all contenders are
taken in turns within one process. Without `bundle=` the output's own student and a linear baseline take part too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import registry, tracking
from configs.folder import FolderError, commit, digest_json, read_manifest
from configs.loader import UsageError
from jobs.command import Result, main
from jobs.data.prepared import MANIFEST
from jobs.data.source import rows
from jobs.finetune import teacher_folder
from jobs.measure import table
from jobs.measure.contenders import Contender
from jobs.measure.fresh import BUDGET_SHAPE, Question, ask
from jobs.prepare import output
from jobs.recipe import Recipe
from jobs.tasks.table import TASKS
from serving.bundle import MANIFEST as BUNDLE
from serving.bundle import Bundle, bundle_bytes, bundle_digest, read_bundle

WINNER, TEACHER = "winner", "teacher"

log = logging.getLogger(__name__)


def run(recipe: Recipe, parent: str | None = None) -> Result:
    """The job: one MLflow run around `evaluate`."""
    with tracking.run(
        "evaluate", experiment=recipe.tracking.experiment, recipe=recipe.model_dump(), parent=parent
    ) as run:
        bundle = locate(recipe)
        found = evaluate(recipe, bundle)
        run.tag(slimcart__data=found["fingerprint"])
        run.metrics.log(found["metrics"])
        run.artifact(Path(output(recipe), "evaluation"))
        print(found["table"], flush=True)
    return Result("evaluate", run.id, output(recipe), found["metrics"], bundle=str(bundle))


def locate(recipe: Recipe) -> Path:
    """The folder of the bundle under evaluation: `bundle`, fetched where it is a model URI, else <output>/bundle.

    Decoders are not exported so far: of them it is <output>/student, or the teacher where there is no student.
    """
    if recipe.bundle is None:
        if recipe.task == "classify":
            return Path(output(recipe), "bundle")
        student = Path(output(recipe), "student")
        return student if (student / BUNDLE).exists() else teacher_folder(recipe)
    if recipe.bundle.startswith("models:"):
        return registry.fetch(*registry.resolve(recipe.bundle), BUNDLE)
    return Path(recipe.bundle)


def evaluate(recipe: Recipe, bundle: Path) -> dict[str, Any]:
    """Measure and write <output>/evaluation; returns its manifest: metrics, table, key. Opens the test file."""
    if not (bundle / BUNDLE).exists():
        raise FolderError(
            f"{bundle}: no bundle there; python -m jobs.tune or jobs.compress makes it, or give bundle=<folder>"
        )
    description = read_bundle(bundle)
    fingerprint = check_test_rows(recipe, description)
    contenders = _contenders(recipe, bundle, description)
    key = evaluation_key(recipe, contenders, fingerprint)
    task = TASKS[recipe.task]
    common = {"task": recipe.task, "data": recipe.data, "split": "test"}
    answers: dict[str, dict[str, float]] = {}
    for contender in contenders:
        log.info("scoring %s on %s", contender.name, recipe.data.test)
        answers |= ask(Question(contenders=[contender], **common))
    shapes: list[tuple[int, int]] = []
    if recipe.task == "classify":  # how long a generated text takes depends on the text: rows_per_second says it
        shapes = list(
            dict.fromkeys([BUDGET_SHAPE, *((b, n) for n in recipe.export.lengths for b in recipe.export.batches)])
        )
        log.info("timing %s in turns", ", ".join(answers))
        latencies = ask(
            Question(
                contenders=contenders,
                score=False,
                shapes=shapes,
                tokenizer=str(bundle / description.tokenizer),
                **common,
            )
        )
        answers = {name: answer | latencies[name] for name, answer in answers.items()}
    for contender in contenders:
        if contender.folder:
            answers[contender.name]["bytes"] = bundle_bytes(read_bundle(Path(contender.folder)))
    teacher = TEACHER if TEACHER in answers else None
    metrics = table.flat(answers)
    if teacher:
        metrics |= table.ratios(answers, WINNER, TEACHER, shapes, task)
    text = table.markdown(answers, teacher, [shape for shape in (BUDGET_SHAPE, (16, 32)) if shape in shapes], task)
    found = {
        "key": key,
        "fingerprint": fingerprint,
        "bundle": bundle_digest(bundle),
        "test": recipe.data.test,
        "metrics": metrics,
        "answers": answers,
        "table": text,
    }

    def fill(aside: Path) -> Mapping[str, Any]:
        (aside / "table.md").write_text(text, encoding="utf-8")
        (aside / "metrics.json").write_text(json.dumps(answers, indent=2) + "\n", encoding="utf-8")
        return found

    return commit(Path(output(recipe), "evaluation"), MANIFEST, lambda aside: dict(fill(aside)))


def check_test_rows(recipe: Recipe, bundle: Bundle) -> str:
    """Fingerprint of the test rows, after their checks. Refuses a file whose labels the bundle does not know."""
    if bundle.task != recipe.task:
        raise UsageError(f"task: {recipe.task!r}: the bundle is for task {bundle.task!r}")
    known, seen, digest = set(bundle.labels), set(), []
    if bundle.pairs != (recipe.data.text_pair is not None):
        wanted = (
            "pairs: name the second column in data.text_pair"
            if bundle.pairs
            else "single texts: leave out data.text_pair"
        )
        raise UsageError(f"data.text_pair: {recipe.data.text_pair!r}: the bundle answers {wanted}")
    for row in rows(recipe.data, "test"):
        seen.add(row.label)
        digest.append(row)
    unknown = sorted(seen - known) if known else []
    if unknown and not seen & known:
        raise UsageError(
            f"data.test: {recipe.data.test}: none of its labels ({unknown[0]!r}, ...) is one of the bundle's"
        )
    if unknown:
        log.warning(
            "%d labels of the test file are none of the bundle's and count as wrong: %s", len(unknown), unknown[0]
        )
    return digest_json(digest)


def evaluation_key(recipe: Recipe, contenders: list[Contender], fingerprint: str) -> str:
    """Digest of what an evaluation depends on."""
    bundles = {each.name: bundle_digest(Path(each.folder)) for each in contenders if each.folder}
    return digest_json({"bundles": bundles, "test": fingerprint, "export": recipe.export.model_dump()})


def evaluated_already(recipe: Recipe, bundle: Path) -> dict[str, Any] | None:
    """The manifest of an evaluation whose bundles and test rows did not change."""
    folder = Path(output(recipe), "evaluation")
    if not (folder / MANIFEST).exists():
        return None
    description = read_bundle(bundle)
    key = evaluation_key(recipe, _contenders(recipe, bundle, description), check_test_rows(recipe, description))
    found = read_manifest(folder, MANIFEST)
    return found if found.get("key") == key else None


def _contenders(recipe: Recipe, bundle: Path, description: Bundle) -> list[Contender]:
    """Baseline without a model, teacher, student, winner: those that belong to this bundle."""
    own = recipe.bundle is None
    baseline = (
        Contender(name="tfidf_svm", kind="linear")
        if recipe.task == "classify"
        else Contender(name="nearest_row", kind="nearest")
    )
    found = [baseline] if own else []
    teacher = teacher_folder(recipe)
    if teacher == bundle:
        pass  # it is under evaluation itself
    elif (teacher / BUNDLE).exists() and set(read_bundle(teacher).labels) == set(description.labels):
        found.append(Contender(name=TEACHER, kind="reference", folder=str(teacher)))
    elif recipe.teacher.bundle:
        raise FolderError(f"{teacher}: no teacher bundle with the labels of {bundle}")
    student = Path(output(recipe), "student")
    if own and student != bundle and (student / BUNDLE).exists():
        found.append(Contender(name="student", kind="reference", folder=str(student)))
    kind = "reference" if description.runtime == "torch" else "bundle"
    return [*found, Contender(name=WINNER, kind=kind, folder=str(bundle))]


if __name__ == "__main__":
    main(run, takes=["bundle"])
