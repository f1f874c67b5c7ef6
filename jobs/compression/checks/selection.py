"""The target whose file goes into the bundle: the fastest of those that agree with the model."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.runtimes import RUNTIMES, ExportTarget, how_to_install, package
from configs.schema.tasks import named
from jobs.compression.apply import Compressed, Exported
from jobs.compression.checks.agreement import Compare, comparison, least
from jobs.compression.step_context import StepContext
from jobs.data.snapshot import Snapshot
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measurement, key, measure
from serving.bundle import CHECKS, Bundle, read_description, write_bundle
from tuning.figures import at

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """The chosen target, its file, and facts of all targets."""

    form: ExportTarget
    file: Path
    facts: dict[str, Any]


def installed(forms: Sequence[ExportTarget]) -> list[ExportTarget]:
    """The targets that this machine can make and measure. Raises `JobError` where there is none."""
    able = [form for form in forms if importlib.util.find_spec(package(form.runtime)) and _computes(form)]
    if not able:
        runtime, precision = forms[0]
        if importlib.util.find_spec(package(runtime)):
            raise JobError(f"export.precision: {precision!r}: this CPU has no such instructions; use f32")
        raise JobError(f"export.runtime: {runtime!r} is not installed here; {how_to_install(runtime)}")
    return able


def choose(
    compressed: Compressed, forms: Sequence[ExportTarget], context: StepContext, fields: Mapping[str, Any]
) -> Chosen:
    """The fastest of `forms` inside the parity limit; a single one is not timed.

    `fields` are those of a bundle without its target. Raises `JobError` where no file is inside the limit; a float file
    that disagrees with the model is outside it.
    """
    compare = comparison(compressed.model, context)
    facts: dict[str, Any] = {}
    inside: dict[ExportTarget, Path] = {}
    for form in forms:
        exported = compressed.files.get(form.runtime)
        if exported is None:
            facts[" ".join(form)] = {"left_out": compressed.left_out[form.runtime]}
            continue
        if compare is None:
            checked, reason = {"parity": "no prepared validation rows"}, None
        else:
            checked, reason = _check(exported, form, compare, context, alone=len(forms) == 1)
        if reason is None:
            inside[form] = exported.last
        else:
            checked["left_out"] = reason
        facts[" ".join(form)] = checked
    if not inside:
        raise JobError("; ".join(dict.fromkeys(each["left_out"] for each in facts.values())))
    if len(inside) > 1:
        return _fastest(inside, context, fields, facts)
    ((form, file),) = inside.items()
    return Chosen(form, file, facts)


def write(folder: Path, form: ExportTarget, file: Path, context: StepContext, fields: Mapping[str, Any]) -> Bundle:
    """Make `folder` the bundle of an exported file."""
    runtime = RUNTIMES[form.runtime]
    model = runtime.model

    def fill(aside: Path) -> None:
        if file.is_dir():
            shutil.copytree(file, aside, dirs_exist_ok=True)
        else:
            shutil.copyfile(file, aside / model)
            for made, kept in zip(runtime.files_beside(file.name), runtime.files_beside(model), strict=True):
                shutil.copyfile(file.with_name(made), aside / kept)
        if context.reference.chat_template:
            shutil.copyfile(context.student / context.reference.chat_template, aside / context.reference.chat_template)
        if context.checks:
            (aside / CHECKS).write_text(context.checks.model_dump_json(), encoding="utf-8")
        context.tokenizer.save(str(aside / context.reference.tokenizer), pretty=False)

    fields = {**fields, **form._asdict(), "model": model, "checked": context.checks is not None}
    return write_bundle(folder, fields, fill)


def _check(
    exported: Exported, form: ExportTarget, compare: Compare, context: StepContext, alone: bool
) -> tuple[dict[str, Any], str | None]:
    """(facts of a target's files, why they are outside the limit or None)."""
    is_float = exported.whole == exported.last
    whole = compare(exported.whole, "f32")
    last = whole if is_float and form.precision == "f32" else compare(exported.last, form.precision)
    competing = not alone or form.precision != "f32"
    limits = [("f32", whole, least(context, is_float=True))]
    limits.append((form.precision if is_float else f"int{context.bits}", last, least(context, is_float, competing)))
    reasons = (
        f"{form.runtime} in {precision} answers {parity.same:.2%} of {parity.rows} validation rows as the model does; "
        f"export.parity asks for {limit:.2%}"
        for precision, parity, limit in limits
        if limit is not None and parity.same < limit
    )
    return {"float": whole._asdict(), "parity": last._asdict()}, next(reasons, None)


def _fastest(
    inside: Mapping[ExportTarget, Path], context: StepContext, fields: Mapping[str, Any], facts: dict[str, Any]
) -> Chosen:
    """The target with the least geometric mean of p50 over `export.lengths` and `export.batches`."""
    folders = {form: context.folder / "-".join(("candidate", *form)) for form in inside}
    for form, file in inside.items():
        write(folders[form], form, file, context, fields)
    named = {" ".join(form): form for form in inside}
    export = context.recipe.export
    lengths = [tokens for tokens in export.lengths if tokens <= context.reference.max_length] or [context.task.shape[1]]
    shapes = [(rows, tokens) for rows in export.batches for tokens in lengths]
    measured = timed({name: folders[form] for name, form in named.items()}, context.recipe, shapes, context.snapshot)
    for name, p50 in measured.items():
        facts[name] |= {key(shape, "p50_ms"): ms for shape, ms in p50.items()}
        facts[name]["mean_ms"] = float(np.exp(np.mean(np.log(list(p50.values())))))
    best = min(measured, key=lambda name: facts[name]["mean_ms"])
    log.info("fastest: %s, of %s", best, {name: f"{facts[name]['mean_ms']:.3g} ms" for name in measured})
    return Chosen(named[best], inside[named[best]], facts)


def timed(
    bundles: Mapping[str, Path], recipe: Recipe, shapes: Sequence[tuple[int, int]], snapshot: Snapshot | None = None
) -> dict[str, dict[tuple[int, int], float]]:
    """{bundle: {(rows, tokens): p50 in ms}}, measured in turns in a fresh process, tokenizer included."""
    one = next(iter(bundles.values()))
    measured = measure(
        Measurement(
            task=recipe.task,
            data=recipe.data.model_copy(update={"test": None, "slices": []}),
            split="validation",
            snapshot=snapshot,
            contenders=[Contender(name=name, kind="bundle", folder=str(folder)) for name, folder in bundles.items()],
            score=False,
            shapes=list(shapes),
            tokenizer=str(one / read_description(one).tokenizer),
        )
    )
    return {
        name: {shape: measured[name].figures["latency"][at(shape)]["p50_ms"] for shape in shapes} for name in bundles
    }


def _computes(form: ExportTarget) -> bool:
    """Whether this CPU has the instructions of a precision."""
    computes = RUNTIMES[form.runtime].computes
    return form.precision == "f32" or computes is None or named(computes)(form.precision)
