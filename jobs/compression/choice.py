"""Which form of a compressed model goes into the bundle: held to the model itself, and of several the fastest."""

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
from configs.schema.runtimes import Form
from jobs.compression.parity import Compare, comparison, least
from jobs.compression.steps import Compressed, Exported
from jobs.compression.workplace import Workplace
from jobs.measure.contenders import Contender
from jobs.measure.fresh import BUDGET_SHAPE, Question, ask, key
from serving.bundle import Bundle, read_description, write_bundle

MODEL = {"onnxruntime": "model.onnx", "openvino": "model.xml", "ctranslate2": "model.bin"}  # name in a bundle

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """A form, its file, and what was found of all forms."""

    form: Form
    file: Path
    facts: dict[str, Any]


def installed(forms: Sequence[Form]) -> list[Form]:
    """Those that this machine can make and measure. Raises `JobError` where there is none."""
    found = [form for form in forms if importlib.util.find_spec(form.runtime) and _computes(form)]
    if not found:
        runtime, precision = forms[0]
        if importlib.util.find_spec(runtime):
            raise JobError(f"export.precision: {precision!r}: this CPU has no such instructions; use f32")
        raise JobError(f"export.runtime: {runtime!r} is not installed here; install slimcart with its extra 'runtimes'")
    return found


def choose(compressed: Compressed, forms: Sequence[Form], workplace: Workplace, fields: Mapping[str, Any]) -> Chosen:
    """The fastest of `forms` inside the parity limit; one alone is not timed.

    `fields` are those of a bundle, but for its form. Raises `JobError` where a float file answers otherwise than the
    model, and where none of several is inside the limit.
    """
    compare = comparison(compressed.model, workplace)
    facts: dict[str, Any] = {}
    inside: dict[Form, Path] = {}
    for form in forms:
        exported = compressed.files.get(form.runtime)
        if exported is None:
            facts[" ".join(form)] = {"left_out": compressed.left_out[form.runtime]}
            continue
        if compare is None:
            found, reason = {"parity": "no prepared validation rows"}, None
        else:
            found, reason = _held(exported, form, compare, workplace, alone=len(forms) == 1)
        if reason is None:
            inside[form] = exported.last
        else:
            found["left_out"] = reason
        facts[" ".join(form)] = found
    if not inside:
        raise JobError("; ".join(dict.fromkeys(each["left_out"] for each in facts.values())))
    if len(inside) > 1:
        return _fastest(inside, workplace, fields, facts)
    ((form, file),) = inside.items()
    return Chosen(form, file, facts)


def write(folder: Path, form: Form, file: Path, workplace: Workplace, fields: Mapping[str, Any]) -> Bundle:
    """Make `folder` the bundle of an exported file."""
    model = MODEL[form.runtime]

    def fill(aside: Path) -> None:
        if file.is_dir():
            shutil.copytree(file, aside, dirs_exist_ok=True)
        else:
            shutil.copyfile(file, aside / model)
        if form.runtime == "openvino":
            shutil.copyfile(file.with_suffix(".bin"), (aside / model).with_suffix(".bin"))
        workplace.tokenizer.save(str(aside / workplace.reference.tokenizer))

    return write_bundle(folder, {**fields, **form._asdict(), "model": model}, fill)


def _held(
    exported: Exported, form: Form, compare: Compare, workplace: Workplace, alone: bool
) -> tuple[dict[str, Any], str | None]:
    """(what was found, why the form is outside the limit). What int8 alone costs a classifier is judged by its metric,
    and here where forms compete, or where the rest is no f32 as it was there."""
    is_float = exported.whole == exported.last
    whole = compare(exported.whole, "f32")
    last = whole if is_float and form.precision == "f32" else compare(exported.last, form.precision)
    limits = [("f32", whole, least(workplace, is_float=True))]
    if is_float or not alone or form.precision != "f32" or workplace.recipe.task != "classify":
        limits.append((form.precision if is_float else f"int{workplace.bits}", last, least(workplace, is_float)))
    reasons = (
        f"{form.runtime} in {precision} answers {found.same:.2%} of {found.rows} validation rows as the model does; "
        f"export.parity asks for {limit:.2%}"
        for precision, found, limit in limits
        if found.same < limit
    )
    return {"float": whole._asdict(), "parity": last._asdict()}, next(reasons, None)


def _fastest(
    inside: Mapping[Form, Path], workplace: Workplace, fields: Mapping[str, Any], facts: dict[str, Any]
) -> Chosen:
    """By the geometric mean of p50 over `export.lengths` and `export.batches`."""
    folders = {form: workplace.folder / "-".join(("candidate", *form)) for form in inside}
    for form, file in inside.items():
        write(folders[form], form, file, workplace, fields)
    named = {" ".join(form): form for form in inside}
    export = workplace.recipe.export
    lengths = [tokens for tokens in export.lengths if tokens <= workplace.reference.max_length] or [BUDGET_SHAPE[1]]
    shapes = [(rows, tokens) for rows in export.batches for tokens in lengths]
    measured = timed({name: folders[form] for name, form in named.items()}, workplace.recipe, shapes)
    for name, p50 in measured.items():
        facts[name] |= {key(shape, "p50_ms"): ms for shape, ms in p50.items()}
        facts[name]["mean_ms"] = float(np.exp(np.mean(np.log(list(p50.values())))))
    best = min(measured, key=lambda name: facts[name]["mean_ms"])
    log.info("fastest: %s, of %s", best, {name: f"{facts[name]['mean_ms']:.3g} ms" for name in measured})
    return Chosen(named[best], inside[named[best]], facts)


def timed(
    bundles: Mapping[str, Path], recipe: Recipe, shapes: Sequence[tuple[int, int]]
) -> dict[str, dict[tuple[int, int], float]]:
    """{bundle: {(rows, tokens): p50 in ms}}, in turns in a fresh process, tokenizer included."""
    one = next(iter(bundles.values()))
    measured = ask(
        Question(
            task=recipe.task,
            data=recipe.data.model_copy(update={"test": None, "slices": []}),
            split="validation",
            contenders=[Contender(name=name, kind="bundle", folder=str(folder)) for name, folder in bundles.items()],
            score=False,
            shapes=list(shapes),
            tokenizer=str(one / read_description(one).tokenizer),
        )
    )
    return {name: {shape: measured[name].metrics[key(shape, "p50_ms")] for shape in shapes} for name in bundles}


def _computes(form: Form) -> bool:
    """Whether this CPU has the instructions of a precision."""
    if form.precision == "f32":
        return True
    if form.runtime == "openvino":
        from serving.runtimes.openvino import import_openvino

        capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {"bf16": "BF16", "f16": "FP16"}[form.precision] in capabilities
    import ctranslate2

    return "bfloat16" in ctranslate2.get_supported_compute_types("cpu")
