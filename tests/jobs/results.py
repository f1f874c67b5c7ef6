"""A tiny seeded result of each stage, and results.json, which keeps them.

    python -m tests.jobs.results [stage ...]      records those of all stages, or of some, anew

A result that changed is taken only under another version of its stage, or other libraries, than it was recorded with.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.folder import digest_json
from configs.schema.distillation import DistillationSpec, StoredOutputs
from configs.schema.models import StudentSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS, named
from jobs.compression import apply
from jobs.compression.logits import logits
from jobs.models import encoder
from jobs.models.student import encoder_student
from jobs.versions import STAGES, libraries
from tests.tiny import models as tiny_models
from tests.tiny import workplace as tiny_workplace
from tests.tiny.stages import (
    COMMON,
    WORDS,
    compressing,
    convolutional,
    digest_of,
    in_process,
    of_texts,
    prepared,
    rounded,
    said,
    seeded_logits,
)

FILE = Path(__file__).with_suffix(".json")
APART = 2e-3  # by which figures of another CPU may differ, of themselves and at all
INT8 = 0.03  # the same where int8 computes, whose sums saturate on some CPUs
CHARACTERS = ["包裹还没到,请查一下", "想退掉这双 Acme 鞋", "荷物がまだ届きません", "ยังไม่ได้รับพัสดุ"]
Figures = dict[str, Any]  # numbers, texts, and lists of them, by name


def prepare(folder: Path) -> Figures:
    """Digests of the prepared rows of both tasks."""
    completions = {
        "task": "generate",
        "data": {"text": "label", "label": "text", "max_length": 22},  # some are cut
        "teacher": {"model": "new:gpt2", "new": {"vocabulary": 300}},
    }
    return {
        "classes": digest_of(prepared(folder / "classes")),
        "pairs": digest_of(prepared(folder / "pairs", data={"text_pair": "other"})),
        "completions": digest_of(prepared(folder / "completions", **completions)),
    }


def pool(folder: Path) -> Figures:
    """Digests of rows that are made of others."""
    from configs.schema.data import PoolSpec
    from jobs.data.augment import augmented

    unlabelled = str(folder / "unlabelled.jsonl")
    made = prepared(folder, data={"unlabelled": unlabelled}, distillation={"pool": {"rows": 40}}).pool
    assert made is not None
    given = [(text, None) for text in CHARACTERS]
    characters = [[name, *row] for name, row in augmented(given, given, PoolSpec(rows=20), "[MASK]", 0)]
    made_by = [*itertools.chain(*sorted(made.manifest["made_by"].items()))]
    return {"rows": digest_of(made), "made by": made_by, "characters": digest_json(characters)}


def finetune(folder: Path) -> Figures:
    """Losses, and what teachers say after some steps."""
    from jobs.training.loss import completion_loss, label_loss

    student_BC, _, label_B = seeded_logits()
    completed_BLC, target_BL = student_BC.reshape(2, 4, -1), label_B.reshape(2, 4)
    weight_C = torch.tensor([0.5, 1.0, 1.5, 1.0, 1.0])
    return in_process(folder)["teacher"] | {
        "loss": rounded(label_loss(student_BC, label_B, 0.1, weight_C)),
        "loss of grades": rounded(label_loss(-(student_BC**2), label_B, graded=True)),
        "loss of completions": rounded(completion_loss(completed_BLC, target_BL, 0.1)),
    }


def distill(folder: Path) -> Figures:
    """Losses, students as they begin, and what they say after some steps."""
    from jobs.models.hidden_states import HiddenStates
    from jobs.training.loss import distill_completion_loss, distill_loss, hidden_states_loss

    student_BC, teacher_BC, label_B = seeded_logits()
    every = dict.fromkeys(("kl", "reverse_kl", "jensen_shannon", "cross_entropy", "hidden", "cosine", "relations"), 0.5)
    spec = DistillationSpec.model_validate({"weights": every, "temperature": 2, "relation_heads": 2})
    chance = torch.Generator().manual_seed(1)
    student_BLH, teacher_BLH = torch.randn(2, 8, 5, 12, generator=chance)
    mask_BL = (torch.arange(5) < torch.arange(8)[:, None] % 5 + 1).long()
    seen = HiddenStates(student_BC, [student_BLH, student_BLH], list(student_BLH.chunk(3, -1)))
    told = {"attention_mask": mask_BL, "teacher_hidden": torch.cat([teacher_BLH, teacher_BLH], -1)}
    ids_BLK = torch.arange(16).reshape(2, 4, 2) % 5
    stored_BLK = teacher_BC.log_softmax(-1).reshape(2, 4, -1).gather(2, ids_BLK)
    found = in_process(folder)["student"] | {
        "loss": rounded(distill_loss(student_BC, teacher_BC, label_B, spec)),
        "loss inside": rounded(hidden_states_loss(seen, told | {"teacher_relations": teacher_BLH}, spec)),
        "loss of completions": rounded(
            distill_completion_loss(student_BC.reshape(2, 4, -1), label_B.reshape(2, 4), ids_BLK, stored_BLK, spec)
        ),
    }
    taught, sizes = tiny_models.encoder_classifier(layers=3), {"hidden": 16, "heads": 1, "feed_forward": 32}
    for kind, given in {"layers": {"layers": 2, **sizes}, "new": {"kind": "new", "layers": 1, **sizes}}.items():
        torch.manual_seed(0)
        found[f"before, {kind}"] = said(encoder_student(taught, StudentSpec.model_validate(given)))
    return found


def teach(folder: Path) -> Figures:
    """What teachers say of some rows."""
    import pyarrow.parquet

    from jobs.training.teaching import PART, Teach

    def asked(name: str, model: Any, **wanted: Any) -> Any:
        rows = tiny_workplace.completed(model, 12) if name == "tokens" else tiny_workplace.examples(12)
        place = tiny_workplace.workplace(folder / name, model, rows, rows)
        told, parts = StoredOutputs.model_validate(wanted).model_dump(), folder / name / "parts"
        Teach(str(place.prepared.folder), str(parts), [(str(place.student), 1.0)], told, "fp32", 1)(
            {"id": np.array([0])}
        )
        (file,) = parts.rglob(PART)
        return pyarrow.parquet.read_table(file).sort_by([("split", "ascending"), ("row", "ascending")])

    classes = asked("classes", tiny_models.encoder_classifier(layers=2), hidden_layers=[1], relation_layer=2)
    tokens = asked("tokens", tiny_models.decoder("gpt2"), tokens=4, answers=True)
    sizes = {
        name: [np.abs(np.array(each, float)).sum() for each in classes[name].to_pylist()]
        for name in classes.column_names[3:]
    }
    return {
        "logits": rounded(np.array(classes["logits"].to_pylist(), float)),
        **{name: rounded(values) for name, values in sizes.items()},
        "likeliest": digest_json([[place[0] for place in each] for each in tokens["ids"].to_pylist()]),
        "log_probs": rounded([np.array(each, float).sum() for each in tokens["log_probs"].to_pylist()]),
        "answers": digest_json(tokens["answer"].to_pylist()),
    }


def compress(folder: Path) -> Figures:
    """What models say after each step, and the files that are exported of them."""
    bert, conv = tiny_models.encoder_classifier(layers=2), convolutional()
    found: Figures = {}
    for name, model, fields in (
        ("prune", bert, {"sparsity": 0.4}),
        ("shrink", bert, {"heads": 1, "feed_forward": 0.5, "hidden": 24}),
        ("cluster", bert, {"bits": 3, "steps": 2}),
        ("fold", conv, {}),
    ):
        given = [{"step": name, **fields}, {"step": "export"}, *([{"step": "code"}] if name == "cluster" else [])]
        place, (spec, *_) = compressing(folder / name, model, given)
        found[name] = said(named(apply.STEPS[spec.kind])(model, spec, place))
    place, (spec, _) = of_texts(folder / "vocabulary", [{"step": "vocabulary"}, {"step": "export"}])
    named(apply.STEPS[spec.kind])(encoder.load(place.student), spec, place)
    found["vocabulary"] = [*map(str, itertools.chain(*sorted(place.facts["vocabulary"].items())))]
    coded = [{"step": "cluster", "bits": 2, "steps": 0}, {"step": "export"}, {"step": "code"}]
    int8 = [{"step": "export"}, {"step": "quantize"}]
    for name, model, given in (("exported", bert, coded), ("exported, int8", conv, int8)):
        place, specs = compressing(folder / name, model, given)
        file = apply.compress(model, specs, place, ["onnxruntime"]).files["onnxruntime"].last
        found[name] = rounded(logits(file, place.rows("validation", 10)))
    return found


def measure(folder: Path) -> Figures:
    """Metrics and their intervals of what was said; latencies by a clock of our own."""
    from jobs.data.source import Row
    from jobs.measure import timing
    from jobs.measure.bootstrap import interval, resampled

    texts = {"classify": [*WORDS] * 10, "generate": [f"{each} {COMMON}" for each in WORDS] * 10}
    texts["generate, characters"] = CHARACTERS * 10
    found: Figures = {}
    for name, wanted in texts.items():
        task = name.partition(",")[0]
        said = [
            other if row % 4 == 0 else own
            for row, (own, other) in enumerate(zip(wanted, wanted[1:] + wanted[:1], strict=True))
        ]
        rows = [Row(text=str(row), pair=None, label=label, slots=(), slices=()) for row, label in enumerate(wanted)]
        metrics = named(TASKS[task].score)(said, rows)
        values = resampled(named(TASKS[task].summed.statistics)(said, rows), named(TASKS[task].summed.value))
        found[name] = rounded([*(metrics[each] for each in sorted(metrics)), *interval(values)])
    clock, calls = 0.0, itertools.count()

    def call(inputs: Any) -> list[Any]:
        nonlocal clock
        clock += 1e-3 * (1 + next(calls) % 7)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: clock)
        patch.setattr(time, "process_time", lambda: clock / 2)
        taken = timing.interleaved({"a": call, "b": call}, [["x"]], 100, blocks=timing.BLOCKS)
    return found | {f"latency of {name}": rounded([*each.values()]) for name, each in taken.items()}


def search(folder: Path) -> Figures:
    """What is tried."""
    from configs.schema.search import SearchSpec
    from tuning.search import _algorithm
    from tuning.space import param_space, plain

    space = {"layers": {"choice": [1, 2, 3]}, "rate": {"loguniform": [1e-5, 1e-1]}, "share": {"uniform": [0, 1]}}
    spec = SearchSpec.model_validate({"space": space, "trials": 8, "seed": 3})
    sampler = _algorithm(spec, spec.trials)
    sampler.set_search_properties("score", "max", param_space(spec.space))
    tried: list[float] = []
    for number in range(spec.trials):
        values = plain(sampler.suggest(str(number)))
        sampler.on_trial_complete(str(number), {"score": values["layers"] - abs(values["share"] - 0.3)})
        tried += rounded([values["layers"], np.log10(values["rate"]), values["share"]])
    return {"tried": tried}


def choose(folder: Path) -> Figures:
    """What trials are worth, and which wins."""
    from configs.schema.search import BudgetSpec
    from tuning import pareto

    budget = BudgetSpec(min_retention=0.98, max_p95_ms=5)
    trials = [
        pareto.Trial(str(number), {}, {"metric": metric, "retention": metric / 0.92, "p95_ms": p95, "megabytes": size})
        for number, (metric, p95, size) in enumerate([(0.91, 4, 20), (0.912, 4.5, 5), (0.93, 6, 9), (0.88, 1, 2)])
    ]
    choice = pareto.choose(trials, budget)
    scores = rounded([pareto.score(each.metrics, budget) for each in trials])
    return {"scores": scores, "winner": choice.winner and choice.winner.id}


def evaluate(folder: Path) -> Figures:
    """The comparison of contenders."""
    from configs.schema.tasks import BUDGET_SHAPE
    from jobs.measure.answers import Answer
    from jobs.measure.comparison import UnseenRows, compare
    from jobs.measure.measurement import Measured
    from tuning.figures import at, figures

    labels = ["refund"] * 20 + ["track"] * 20

    def measured(wrong: int, p50: float, size: float) -> Measured:
        answers = [Answer("size" if row % 40 < wrong else label, 0.9) for row, label in enumerate(labels)]
        latency = {at(BUDGET_SHAPE): {"p50_ms": p50, "p95_ms": p50 * 1.5}}
        metrics = {"accuracy": 1 - wrong / 40, "macro_f1": 0.9, "bytes": size}
        return Measured(figures(metrics, latency), answers)

    contenders = {"teacher": measured(2, 20, 9e7), "student": measured(3, 5, 4e7), "winner": measured(4, 1, 5e6)}
    test = UnseenRows("0" * 64, "1" * 64, labels, {"channel": ["phone", "mail"] * 20})
    recipe = Recipe.model_validate({"name": "tiny", "budget": {"min_retention": 0.9}})
    fields, _ = compare(recipe, test, contenders, [BUDGET_SHAPE])
    return {name: rounded(value) for name, value in sorted(fields["metrics"].items())}


def baselines(folder: Path) -> Figures:
    """What they say, calibrated."""
    from jobs.data.source import rows
    from jobs.measure.answers import input_of
    from jobs.measure.baselines import Source, find_or_make
    from serving.runtime import load_bundle

    place, _ = of_texts(folder, [{"step": "export"}])
    source = Source(place.recipe.data, place.recipe.judged_by, place.student)
    texts = [input_of(row) for row in rows(place.recipe.data, "validation")]
    return {
        name: rounded(load_bundle(find_or_make(place.recipe, name, source)).logits(texts))
        for name in ("tfidf", "static")
    }


def cascade(folder: Path) -> Figures:
    """Temperatures and the threshold."""
    from jobs.measure.calibration import confidence, fit_temperature, lowest_threshold

    chance = np.random.default_rng(0)
    label_N = chance.integers(0, 4, 200)
    first_NC, second_NC = (chance.normal(size=(200, 4)) + gain * np.eye(4)[label_N] for gain in (1.5, 3))
    temperatures = [fit_temperature(each, label_N) for each in (first_NC, second_NC)]
    right = [each.argmax(1) == label_N for each in (first_NC, second_NC)]
    threshold = lowest_threshold(confidence(first_NC, temperatures[0]), *right, wanted=float(right[1].mean()) - 0.01)
    return {"temperatures": rounded(temperatures), "threshold": rounded(threshold)}


def reply(folder: Path) -> Figures:
    """Templates and the threshold."""
    from jobs.measure.calibration import lowest_safe_threshold
    from jobs.tasks.classify.templates import Message, learn

    said = ["Order A1 is late.", "Your order B2 is late, please wait.", "It is late.", "Wait for order C3 today."]
    rows = [
        Message("where is it", intent, f"{text} {intent}", {"order": order})
        for intent in ("track", "refund")
        for text, order in zip(said, ("A1", "B2", "", "C3"), strict=True)
    ]
    chance = np.random.default_rng(0)
    confidence_N = chance.uniform(0.3, 1, 200)
    right_N = chance.random(200) < confidence_N**0.1
    threshold = lowest_safe_threshold(confidence_N, right_N, 0.95, 1.0)
    assert threshold is not None
    return {"templates": learn(rows, ["order"]).model_dump_json(), "threshold": round(threshold, 5)}


def score(folder: Path) -> Figures:
    """Answers to rows, by a classifier and by a decoder."""
    from jobs.scoring import Answer
    from tests.tiny.bundles import write_tiny_bundle
    from tests.tiny.decoders import write_tiny_decoder
    from tests.tiny.scores import asking_of, parts_of

    write_tiny_bundle(folder / "classifier")
    write_tiny_decoder(folder / "decoder", b"where is my order\nIt is on its way.")
    rows = [{"text": text} for text in ("where is my order", "cancel it", "refund please now", "a text")]
    said = {}
    for name in ("classifier", "decoder"):
        ask = asking_of(folder / name, prefix="said_")
        with parts_of(folder, rows, ask) as parts:
            answers, _ = Answer(str(folder / "parts"), ask.model_dump(), parts).answers(parts.read(0))
        said[name] = [
            [rounded(value) if isinstance(value, float) else value for value in each.values()] for each in answers
        ]
    return said


RESULTS: Mapping[str, Callable[[Path], Figures]] = {
    each.__name__: each
    for each in (
        prepare,
        pool,
        finetune,
        teach,
        distill,
        compress,
        measure,
        search,
        choose,
        baselines,
        evaluate,
        cascade,
        reply,
        score,
    )
}


def kept(stage: str) -> dict[str, Any]:
    """What the file holds of a stage: {version, libraries, figures}; nothing of a new one."""
    return json.loads(FILE.read_text(encoding="utf-8")).get(stage, {}) if FILE.exists() else {}


def differences(figures: Figures, recorded: Figures) -> list[str]:
    """Names of recorded figures that are others now, or none."""
    return [
        name
        for name, value in recorded.items()
        if not same(figures.get(name), value, INT8 if "int8" in name else APART)
    ]


def same(found: Any, recorded: Any, apart: float) -> bool:
    """Whether two figures are the same but for what another CPU may do."""
    if isinstance(recorded, list):
        return (
            isinstance(found, list)
            and len(found) == len(recorded)
            and all(map(functools.partial(same, apart=apart), found, recorded))
        )
    if isinstance(recorded, float | int) and isinstance(found, float | int):
        return found == pytest.approx(recorded, rel=apart, abs=apart)
    return found == recorded


def main(stages: Sequence[str]) -> Iterator[str]:
    """Record; says what was done about each stage."""
    for stage in stages or RESULTS:
        with tempfile.TemporaryDirectory() as folder:
            figures = RESULTS[stage](Path(folder))
        before, now = kept(stage), {"version": STAGES[stage].version, "libraries": libraries(stage)}
        changed = differences(figures, before.get("figures", {}))
        if changed and all(before[name] == value for name, value in now.items()):
            yield f"{stage}: not recorded: {', '.join(changed)} changed; raise its version in jobs/versions.py first"
            continue
        whole = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        whole[stage] = now | {"figures": figures}
        FILE.write_text(
            json.dumps({name: whole[name] for name in STAGES if name in whole}, indent=1) + "\n", encoding="utf-8"
        )
        yield f"{stage}: recorded under version {now['version']}"


if __name__ == "__main__":
    for line in main(sys.argv[1:]):
        print(line, flush=True)
