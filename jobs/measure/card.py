"""The model card of a bundle: README.md in the manner of Hugging Face, of what is known before any test row is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.schema.data import HUB_ID
from configs.schema.kinds import KINDS
from configs.schema.recipe import Recipe
from configs.schema.runtimes import package
from configs.schema.tasks import BASELINES, TASKS, named
from jobs.measure.answers import FIRST_SHARE
from jobs.measure.machine import cpu
from jobs.measure.table import blocks_words
from jobs.measure.timing import busy_words
from serving.bundle import Bundle, bundle_bytes
from tuning.figures import AS_THEY_COME, Shape, at, figures, latency_of, timed

MOST_LABELS = 100
LONGEST_FACTS = 4000  # characters; more stands in bundle.json
CARD = """\
---
{head}
---

# {name}

{does} {made}

```
python -m serving.runtime <this folder> < lines.txt
```

Needs {runtime}; no torch, no network.

{labels}## How it was made

{origin}

## Steps

{steps}

## On the validation rows

{figures}

## Latency

{latency}

## Limits

{limits}
- The figures are those of the validation rows, by which the model was chosen: expect somewhat less on rows that it has
  never seen. `python -m jobs.evaluate` measures that.
- Languages and subjects other than those of its training rows were not measured.
"""

STUDENT = "A student of {teacher}, distilled, compressed and exported by slimcart."
CASCADE = """\
Two students of {teacher}, joined by slimcart: the first answers
what it is sure of, with a probability of {threshold:.4f} or more, the second the rest."""
FIRST_ALONE = """\
Two students of {teacher}, joined by slimcart, of which the first answers
everything: it is sure enough of all validation rows, so the second is never asked."""
BASELINE = "A baseline made of the training rows by slimcart: {what}."


class Words(NamedTuple):
    """What a card says of the models of a task."""

    does: str  # with {classes} and {inputs}
    limits: str  # with {max_length}
    pipeline: str  # as Hugging Face calls it


def card(bundle: Bundle, recipe: Recipe) -> str:
    """Markdown with a YAML head. It holds no text of a customer and no path of this machine.

    `bundle` has its validation metrics; `recipe` has the values it was made with.
    """
    words: Words = named(TASKS[bundle.task].words)
    one = "attributes" if bundle.attributes else "a text"
    inputs = "a pair of texts" if bundle.pairs else one
    parts = _parts(bundle)
    threshold = bundle.first.threshold if bundle.first else None
    return CARD.format(
        head=_head(bundle, parts, words.pipeline),
        name=bundle.name,
        does=words.does.format(classes=len(bundle.labels), inputs=inputs) + _of_kind(bundle),
        made=_made(bundle).format(teacher=_teacher(parts), threshold=threshold),
        runtime=" and ".join(dict.fromkeys(package(each.runtime) for each in bundle.models)),
        labels=_labels(bundle.labels),
        origin=_table(_origin(bundle, parts)),
        steps="\n\n".join(_steps(each) for each in parts) or "None.",
        figures=_table(_figures(bundle, recipe)),
        latency=_latency(bundle.metrics, TASKS[bundle.task].shape),
        limits=words.limits.format(max_length=bundle.max_length),
    )


def _of_kind(bundle: Bundle) -> str:
    """What is said besides of a bundle of a kind."""
    if bundle.kind is None or bundle.reply is None:
        return ""
    return f" {KINDS[bundle.kind].card.format(threshold=bundle.reply.threshold)}"


def _made(bundle: Bundle) -> str:
    if name := bundle.provenance.get("baseline"):
        return BASELINE.format(what=BASELINES[name].what)
    if bundle.first is None:
        return STUDENT
    return CASCADE if bundle.first.threshold > 0 else FIRST_ALONE


class Part(NamedTuple):
    """A model of a bundle, which has one, or as a cascade two."""

    title: str  # "first", "second", or nothing
    form: str  # runtime and precision
    provenance: Mapping[str, Any]


def _parts(bundle: Bundle) -> list[Part]:
    form = f"{bundle.runtime} {bundle.precision}"
    if bundle.first is None:
        return [Part("", form, bundle.provenance)]
    forms = {"first": f"{bundle.first.runtime} {bundle.first.precision}", "second": form}
    return [Part(name, forms[name], bundle.provenance.get(name, {}).get("provenance", {})) for name in forms]


def _head(bundle: Bundle, parts: Sequence[Part], pipeline: str) -> str:
    steps = [each["step"] for part in parts for each in part.provenance.get("steps", [])]
    kind = "baseline" if "baseline" in bundle.provenance else "distillation"
    tags = ["slimcart", kind, *(["cascade"] if bundle.first else []), *steps]
    lines = [f"pipeline_tag: {pipeline}", f"library_name: {bundle.runtime}"]
    models = dict.fromkeys(part.provenance.get("teacher_model") for part in parts)
    lines += [f"base_model: {model.partition('@')[0]}" for model in models if model and HUB_ID.match(model)][:1]
    return "\n".join([*lines, f"tags: [{', '.join(dict.fromkeys(tags))}]"])


def _teacher(parts: Sequence[Part]) -> str:
    """By the students' own recipes; a bundle, and what was made earlier, does not say what model it was."""
    models = dict.fromkeys(part.provenance.get("teacher_model") for part in parts)
    return " and ".join(f"`{_public(model)}`" if model else "a teacher bundle" for model in models)


def _labels(labels: list[str]) -> str:
    if not labels:
        return ""
    shown = ", ".join(f"`{' '.join(label.split())}`" for label in labels[:MOST_LABELS])
    more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    return f"## Labels\n\n{shown}{more}\n\n"


def _origin(bundle: Bundle, parts: Sequence[Part]) -> Iterable[tuple[str, str]]:
    if "baseline" not in bundle.provenance:
        yield "teacher", _teacher(parts)
    for part in parts:
        if spec := part.provenance.get("student_spec"):
            yield f"{part.title} student".strip(), _fields(spec)
    made = {"first": bundle.provenance.get("first", {}), "second": bundle.provenance.get("second", {})}
    for title, value in (
        *((f"{name} bundle, SHA-256", each.get("bundle")) for name, each in made.items()),
        ("training and validation rows, SHA-256", bundle.provenance.get("data")),
        ("student bundle, SHA-256", bundle.provenance.get("student")),
        ("teacher bundle, SHA-256", bundle.provenance.get("teacher")),
        ("code", bundle.provenance.get("code")),
        ("MLflow run", bundle.provenance.get("run_id")),
    ):
        if value:
            yield title, f"`{value}`"


def _steps(part: Part) -> str:
    lines, found = ([f"### {part.title.capitalize()}", ""] if part.title else []), part.provenance.get("facts") or {}
    for number, spec in enumerate(part.provenance.get("steps", []), 1):
        fields = _fields({name: value for name, value in spec.items() if name not in ("step", "name")})
        lines.append(f"{number}. {spec['step']}{': ' + fields if fields else ''}")
        step = found.get(spec.get("name") or spec["step"], {})
        if kept := step.get("in_float"):
            lines[-1] += f"; {len(kept)} of {step['layers']} layers stay in float: {', '.join(kept)}"
    form = found.get("forms", {}).get(part.form, {})
    if whole := form.get("float"):
        differs = "" if whole["difference"] is None else f"; no logit differs by more than {whole['difference']:.2g}"
        lines += [
            "",
            f"In float the file answers as the model on {whole['same']:.2%} of {whole['rows']} rows{differs}.",
        ]
    if facts := _public(found):
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        short = len(text) <= LONGEST_FACTS
        lines += ["", f"```json\n{text}\n```" if short else "What they say of themselves stands in bundle.json."]
    return "\n".join(lines)


def _figures(bundle: Bundle, recipe: Recipe) -> Iterable[tuple[str, str]]:
    task, metrics = TASKS[bundle.task].by(recipe.budget.metric), bundle.metrics
    metric = task.metric
    for name in (metric, *task.shown):
        low, high = (metrics.get(f"validation_{name}_{end}") for end in ("low", "high"))
        if (value := metrics.get(f"validation_{name}")) is not None:
            yield name, f"{value:.4f}" + (f" (95 % interval {low:.4f} to {high:.4f})" if low is not None else "")
    for name in ("first", "second") if bundle.first else ():
        if (value := metrics.get(f"validation_{name}_{metric}")) is not None:
            yield f"{metric} of the {name} alone", f"{value:.4f}"
    if (share := metrics.get(f"validation_{FIRST_SHARE}")) is not None:
        yield "rows that the first answers", f"{share:.2%}"
    if (wanted := bundle.provenance.get(f"wanted_{metric}")) is not None:
        yield f"{metric} that was asked for", f"{wanted:.4f}"
    if (share := metrics.get("retention")) is not None:
        asked = "" if bundle.first else f" (asked for: {recipe.budget.min_retention:.2%})"
        yield f"share of the teacher's {metric}", f"{share:.2%}{asked}"
    if (rows := metrics.get("validation_rows")) is not None:
        yield "rows", f"{rows:,.0f}"
    yield "size", f"{bundle_bytes(bundle) / 1e6:.1f} MB"


def _latency(metrics: Mapping[str, float], shape: Shape) -> str:
    places = (timed(shape), AS_THEY_COME)
    found = {place.at: latency_of(metrics, place.at) for place in places}
    lines = ["| | calls | p50, ms | p95, ms | p99, ms | mean, ms |", "| --- | --- | --- | --- | --- | --- |"]
    for place in places:
        if "p50_ms" in (each := found[place.at]):
            percentiles = " | ".join(f"{each[f'p{percent}_ms']:.2f}" for percent in (50, 95, 99))
            mean = f"{value:.2f}" if (value := each.get("mean_ms")) is not None else ""
            lines.append(f"| {place.title} | {each['calls']:.0f} | {percentiles} | {mean} |")
    if len(lines) == 2:
        return "Not measured."
    words = f"On one thread, tokenizer included, on {cpu()}."
    low, high = (found[at(shape)].get(f"p95_ms_others_{end}") for end in ("low", "high"))
    if (pace := found[at(shape)].get("ms_per_token")) is not None:
        words += f" An answer of a stated length takes {pace:.2f} ms for each of its tokens (p50, prompt included)."
    if low is not None:
        words += f" {blocks_words(shape)} p95 of the other blocks: {low:.2f} to {high:.2f} ms."
    return "\n".join([*lines, "", words, *filter(None, [busy_words({"the bundle": figures(latency=found)})])])


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {title} | {value} |" for title, value in rows)])


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(_public(value), ensure_ascii=False)}" for name, value in values.items())


def _public(value: Any) -> Any:
    """`value` without the paths of this machine."""
    if isinstance(value, Mapping):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    return "a local folder" if isinstance(value, str) and Path(value).is_absolute() else value
