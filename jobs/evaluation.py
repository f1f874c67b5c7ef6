"""The final evaluation: contenders, their measurement on the test rows, and its manifest."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cluster.session import JobError
from configs.folder import FolderError, commit, digest_json
from configs.loader import UsageError
from configs.schema.kinds import KINDS
from configs.schema.recipe import Recipe
from configs.schema.tasks import named
from configs.shown_urls import shown_urls
from jobs.compression.after_each_step import after_each_step
from jobs.data.leaks import Hashes
from jobs.data.prepared import MANIFEST
from jobs.data.snapshot import Snapshot, take_snapshot
from jobs.data.source import Split, place, rows, shown
from jobs.layout import evaluation_folder, output, teacher_folder
from jobs.measure.answers import KindTest, input_of
from jobs.measure.comparison import TEACHER, WINNER, UnseenRows, compare
from jobs.measure.contenders import Contender
from jobs.measure.differences import grouped
from jobs.measure.machine import machine_kind
from jobs.measure.measurement import Measured, Measurement, measure
from jobs.measure.table import Machine
from jobs.versions import behaviour
from serving import units
from serving.bundle import MANIFEST as BUNDLE
from serving.bundle import Bundle, bundle_bytes, bundle_digest, read_bundle, read_description
from serving.inputs import joined
from tuning.figures import Shape, add, at

log = logging.getLogger(__name__)


class TakenRows(NamedTuple):
    """The test rows, read once, and the hashes of their texts."""

    snapshot: Snapshot
    seen: dict[Split, Hashes]


@contextmanager
def take_test_rows(recipe: Recipe) -> Iterator[TakenRows]:
    """Opens the test file; what was read is there for as long as the block lasts."""
    seen: dict[Split, Hashes] = {}
    with take_snapshot(recipe.data, "test", Path(output(recipe)), seen) as snapshot:
        yield TakenRows(snapshot, seen)


def evaluate(recipe: Recipe, bundle: Path, run_id: str, taken: TakenRows | None = None) -> dict[str, Any]:
    """Measure and write <output>/evaluation; returns its manifest: metrics, table, key.

    `run_id` is the MLflow run that it names as its origin. Opens the test file, unless its rows were `taken`.
    """
    from jobs.measure.unseen import audit_test_rows

    check_there(bundle)
    description = read_bundle(bundle)
    check_inputs(recipe, description)
    with (
        nullcontext(taken) if taken else take_test_rows(recipe) as (snapshot, seen),
        tempfile.TemporaryDirectory(prefix="slimcart-evaluate-") as between,
    ):
        test = check_test_rows(recipe, description, snapshot)
        log.info("%s: metrics and baselines count %s", place(recipe.data, "test"), test.counted)
        contenders = _contenders(recipe, bundle, description)
        further = kinds_test(recipe, bundle, description)
        identity = evaluation_key(recipe, contenders, test.fingerprint, further)
        shapes = _shapes(recipe, contenders)
        if recipe.bundle is None and recipe.evaluation.steps and recipe.judged_by.uses("evaluation", "steps"):
            student = Path(output(recipe), "student")
            steps = after_each_step(recipe, description, student, Path(between)) if (student / BUNDLE).exists() else []
            contenders = [*contenders[:-1], *steps, contenders[-1]]
        measured = _measure(recipe, _counted_by(contenders), contenders, shapes, snapshot)
        contenders = [each for each in contenders if each.name in measured]
        machine = _compare_with_peak(recipe, contenders, measured, shapes)
        compared, files = compare(recipe, test, measured, shapes, machine)
        if further:
            _add_further(compared, files, *further.judge(measured[WINNER].answers))
        audited, faults = audit_test_rows(recipe, bundle, description, snapshot.rows(), seen)
    compared["metrics"] |= faults
    found = {
        "key": identity,
        "fingerprint": test.fingerprint,
        "bundle": bundle_digest(bundle),
        "run_id": run_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "test": shown_urls(str(recipe.data.test)),
        "rows": audited,
        **compared,
    }

    def fill(aside: Path) -> dict[str, Any]:
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8")
        return found

    return commit(evaluation_folder(recipe), MANIFEST, fill)


def _add_further(compared: dict[str, Any], files: dict[str, str], metrics: Mapping[str, float], words: str) -> None:
    """Add figures of the winner's kind to the fields of the manifest, and to the table what they say."""
    log.info("%s", words)
    compared["metrics"] |= metrics
    compared["first"].append(words)
    compared["table"] = f"{words}\n\n{compared['table']}"
    files["table.md"] = f"{words}\n\n{files['table.md']}"


def check_there(bundle: Path) -> None:
    """Raise `FolderError` where there is no bundle."""
    if not (bundle / BUNDLE).exists():
        raise FolderError(
            f"{bundle}: no bundle there; python -m jobs.tune, jobs.compress or jobs.reply makes it, or give "
            "bundle=<folder>"
        )


def check_inputs(recipe: Recipe, bundle: Bundle) -> None:
    """Refuse a bundle for another task than the recipe's, or for pairs where it has single texts, or the reverse."""
    if bundle.task != recipe.task:
        raise UsageError(f"task: {recipe.task!r}: the bundle is for task {bundle.task!r}")
    if bundle.pairs != (recipe.data.text_pair is not None):
        wanted = (
            "pairs: name the second column in data.text_pair"
            if bundle.pairs
            else "single texts: leave out data.text_pair"
        )
        raise UsageError(f"data.text_pair: {recipe.data.text_pair!r}: the bundle answers {wanted}")


def check_test_rows(recipe: Recipe, bundle: Bundle, snapshot: Snapshot | None = None) -> UnseenRows:
    """The test rows, those of the `snapshot` where there is one, after their checks.

    Refuses a file whose labels the bundle does not know.
    """
    check_inputs(recipe, bundle)
    found, known = snapshot.rows() if snapshot else list(rows(recipe.data, "test")), set(bundle.labels)
    labels = [row.label for row in found]
    unknown = sorted(set(labels) - known) if known else []
    if unknown and known.isdisjoint(labels):
        raise UsageError(
            f"{place(recipe.data, 'test')}: none of its labels is one of the bundle's, "
            f"for example label {shown(unknown[0], labels)}"
        )
    if unknown:
        log.warning(
            "%d labels of the test file are none of the bundle's and count as wrong, for example label %s",
            len(unknown),
            shown(unknown[0], labels),
        )
    slices = {
        column: grouped(column, [row.slices[index] for row in found]) for index, column in enumerate(recipe.data.slices)
    }
    asked = digest_json([row._replace(slices=()) for row in found])
    compared = [joined(input_of(row)) for row in found] if recipe.judged_by.labelled else labels
    return UnseenRows(digest_json(found), asked, labels, slices, units.said(compared), found)


def evaluation_key(
    recipe: Recipe, contenders: list[Contender], fingerprint: str, further: KindTest | None = None
) -> str:
    """Digest of what an evaluation depends on; `further`: see `kinds_test`."""
    parts: dict[str, Any] = {name: getattr(recipe, name).model_dump() for name in ("export", "evaluation")}
    parts["budget"] = recipe.budget.limits
    parts["bundles"] = {each.name: bundle_digest(Path(each.folder)) for each in contenders if each.folder}
    parts |= {"test": fingerprint, "slices": recipe.data.slices, "machine": machine_kind()}
    if further:
        parts["further"] = further.key
    return digest_json(parts | behaviour("compress", "measure", "evaluate"))


def kinds_test(recipe: Recipe, folder: Path, bundle: Bundle) -> KindTest | None:
    """What a kind of bundle is asked of the test rows beside its model's task; None of a bundle without a kind."""
    return named(KINDS[bundle.kind].tested)(recipe, folder) if bundle.kind else None


def _measure(
    recipe: Recipe,
    tokenizer: Path,
    contenders: list[Contender],
    shapes: list[Shape],
    snapshot: Snapshot | None = None,
) -> dict[str, Measured]:
    """Score each in a process of its own, then time all of them in turns in one more.

    What is fitted to the rows is fitted once, in the latter; the memory that takes is not what answering takes. One
    that fails is left out with a warning, unless it is the winner or its teacher.
    """
    common: dict[str, Any] = {"task": recipe.task, "data": recipe.data, "split": "test", "snapshot": snapshot}
    common |= {"resources": True}
    common |= {"answers": recipe.judged_by.compare is not None, "batches": True, "metric": recipe.budget.metric}
    found: dict[str, Measured] = {}
    for contender in contenders:
        if contender.fit is None:
            log.info("scoring %s on %s", contender.name, place(recipe.data, "test"))
            try:
                found |= measure(Measurement(contenders=[contender], **common))
            except JobError as error:
                if contender.name in (WINNER, TEACHER):
                    raise
                log.warning("%s is left out: %s", contender.name, error)
    common |= {"mix": True, "watts_per_core": recipe.evaluation.watts_per_core, "tokenizer": str(tokenizer)}

    def in_turns(takers: list[Contender]) -> dict[str, Measured]:
        log.info("timing %s in turns", ", ".join(each.name for each in takers))
        fitted = [each.name for each in takers if each.fit]
        return measure(Measurement(contenders=takers, score=fitted, shapes=shapes, **common))

    contenders = [each for each in contenders if each.name in found or each.fit]
    try:
        timed = in_turns(contenders)
    except JobError:
        able = [each for each in contenders if each.name in (WINNER, TEACHER) or _answers(each, in_turns)]
        if len(able) == len(contenders):
            raise
        contenders, timed = able, in_turns(able)
    for name, each in timed.items():
        add(each.figures, to=found.setdefault(name, each).figures)
    for contender in contenders:
        if contender.folder and contender.kind in ("bundle", "reference"):
            size = bundle_bytes(read_bundle(Path(contender.folder)))
            found[contender.name].figures["metrics"]["bytes"] = size
    return {each.name: found[each.name] for each in contenders}


def _answers(contender: Contender, in_turns: Callable[[list[Contender]], object]) -> bool:
    """Whether a contender can be timed by itself; says why not."""
    try:
        in_turns([contender])
    except JobError as error:
        log.warning("%s is left out: %s", contender.name, error)
        return False
    return True


def _counted_by(contenders: Sequence[Contender]) -> Path:
    """The tokenizer whose tokens count at a shape: the winner's, or, where that counts words, its teacher's."""
    folders = {each.name: Path(each.folder) for each in contenders if each.folder}
    name = WINNER if read_description(folders[WINNER]).inputs or TEACHER not in folders else TEACHER
    return folders[name] / read_description(folders[name]).tokenizer


def _compare_with_peak(
    recipe: Recipe, contenders: list[Contender], measured: dict[str, Measured], shapes: list[Shape]
) -> Machine:
    """Add to what was measured which share of this CPU's peaks it is; of what writes it is not known."""
    from jobs.measure import flops, peak, resources

    method = resources.method(recipe.evaluation.watts_per_core)
    if recipe.judged_by.writes:
        return Machine({}, method)
    machine = Machine(peak.ask(), method)
    for contender in contenders:
        found = measured[contender.name].figures
        for shape, operations in flops.count(contender, contender.shapes or shapes).items():
            reached = operations / found["latency"][at(shape)]["p50_ms"] / 1e6  # 10^9 a second
            found["shares"][at(shape)] = {kind: reached / best for kind, best in machine.peaks.items()}
    return machine


def _shapes(recipe: Recipe, contenders: list[Contender]) -> list[Shape]:
    """The shapes that are timed; of what writes also the time to the first token, and answers side by side."""
    shape, batches = recipe.judged_by.shape, recipe.export.batches
    folders = [Path(each.folder) for each in contenders if each.folder]
    longest = min(read_description(folder).max_length for folder in folders)
    if recipe.judged_by.writes:
        if sum(shape[1:]) > longest:
            words = "prompts and answers of %d tokens together are timed as the models hold them: cut to %d"
            log.warning(words, sum(shape[1:]), longest)
        alone, prompt, answer = shape
        return list(dict.fromkeys([(alone, prompt, 1), shape, *((each, prompt, answer) for each in sorted(batches))]))
    if longer := [tokens for tokens in recipe.export.lengths if tokens > longest]:
        log.info("not timed at %s tokens: the models cut a text after %d", longer, longest)
    if shape[1] > longest:
        log.warning("texts of %d tokens are timed as the models see them: cut after %d", shape[1], longest)
    lengths = [tokens for tokens in recipe.export.lengths if tokens <= longest]
    asked = {(batch, tokens) for tokens in lengths for batch in batches}
    return sorted({shape, *asked}, key=lambda each: (each[1], each[0]))


def _contenders(recipe: Recipe, bundle: Path, description: Bundle) -> list[Contender]:
    """Baselines, teacher, student, winner: those that belong to this bundle. Makes the baselines that are missing."""
    own = recipe.bundle is None
    teacher = _teacher(recipe, bundle, description)
    found = [Contender(name=TEACHER, kind="reference", folder=str(teacher))] if teacher else []
    if own or recipe.evaluation.baselines:
        found = [*_baselines(recipe, teacher, description), *found]
    student = Path(output(recipe), "student")
    if own and student != bundle and _made_of(description, student):
        found.append(Contender(name="student", kind="reference", folder=str(student)))
    kind = "reference" if description.runtime == "torch" else "bundle"
    return [*found, Contender(name=WINNER, kind=kind, folder=str(bundle))]


def _teacher(recipe: Recipe, bundle: Path, description: Bundle) -> Path | None:
    """The teacher of this bundle; None where there is none, or it is the bundle."""
    teacher = teacher_folder(recipe)
    if teacher == bundle:
        return None
    if recipe.teacher.bundle and (runtime := read_bundle(teacher).runtime) != "torch":
        raise UsageError(
            f"teacher.bundle: {teacher}: an exported {runtime} bundle; give a reference (safetensors) bundle, as "
            "python -m jobs.finetune makes it"
        )
    if (teacher / BUNDLE).exists() and set(read_bundle(teacher).labels) == set(description.labels):
        return teacher
    if recipe.teacher.bundle:
        raise FolderError(f"{teacher}: no teacher bundle with the labels of {bundle}")
    return None


def _baselines(recipe: Recipe, teacher: Path | None, description: Bundle) -> list[Contender]:
    from jobs.measure import baselines

    for name in recipe.evaluation.baselines or []:
        baselines.check_possible(name, teacher, description.attributes, "evaluation.baselines")
    itself = description.provenance.get("baseline")
    names = [name for name in baselines.possible(recipe, teacher, description.attributes) if name != itself]
    known = recipe.judged_by.baselines
    bundles = baselines.made(recipe, [name for name in names if known[name].is_bundle], teacher)
    places: dict[str, dict[str, str]] = {
        name: {"kind": "bundle", "folder": str(folder)} for name, folder in bundles.items()
    }
    places |= {name: {"kind": "fitted", "fit": known[name].make} for name in names if not known[name].is_bundle}
    return [Contender.model_validate({"name": known[name].contender, **place}) for name, place in places.items()]


def _made_of(description: Bundle, student: Path) -> bool:
    """Whether a bundle was made of this student, and not of one before it in the same folder."""
    return (student / BUNDLE).exists() and description.provenance.get("student") == bundle_digest(student)
