"""Trials, an evaluation, and the page that a report makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

from configs.schema.search import BudgetSpec, Objective
from tuning import report
from tuning.figures import Figures, figures
from tuning.pareto import Trial, choose

BUDGET = BudgetSpec(min_retention=0.99, max_p95_ms=2.0, max_megabytes=20.0)
TEACHER = 0.95
VOID = {"meta"}


def trial(name: str, metric: float, p95: float = 1.0, megabytes: float = 10.0, **values: object) -> Trial:
    metrics = {"metric": metric, "retention": metric / TEACHER, "p95_ms": p95, "megabytes": megabytes}
    return Trial(name, {"student.layers": 2, **values}, metrics)


TRIALS = [
    trial("a_slow", 0.949, p95=7.5, megabytes=60.0),
    Trial("b_failed", {"student.layers": [0, 2]}, {}, "JobError: <script>alert(1)</script>"),
    trial("c_good", 0.944),
    trial("d_winner", 0.9475, p95=1.5, megabytes=15.0, **{"prune.sparsity": 0.3, "distillation.learning_rate": 8.2e-5}),
    trial("e_collapsed", 0.2),
]


def manifest(trials: list[Trial], budget: BudgetSpec, objective: Objective = "accurate") -> dict[str, Any]:
    """As <output>/search holds it, after its way through a file."""
    choice = choose(trials, budget, objective)
    found = {
        "key": "0" * 64,
        "run_id": "5c0de0e0aa5f",
        "model_uri": "models:/intent/7",
        "bundle": "1" * 64,
        "teacher_metric": TEACHER,
        "winner": asdict(choice.winner) if choice.winner else None,
        "trials": [asdict(each) | {"reason": choice.reasons[each.id]} for each in trials],
    }
    return json.loads(json.dumps(found))


def page(
    trials: list[Trial] = TRIALS,
    budget: BudgetSpec = BUDGET,
    evaluation: Mapping[str, Any] | None = None,
    name: str = "intent",
    objective: Objective = "accurate",
    rows: Mapping[str, Any] | None = None,
    served: Mapping[str, float] | None = None,
) -> Page:
    return Page(report.render(name, manifest(trials, budget, objective), budget, objective, evaluation, rows, served))


class Page(HTMLParser):
    """Tables as rows of texts, the tags with their attributes, and the text; every tag must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.text = html, [], ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data.replace("\u200b", "")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]

    def classes(self, tag: str) -> list[str | None]:
        return [attributes.get("class") for attributes in self.all(tag)]

    def words(self) -> str:
        return " ".join(self.text.split())


SHAPES = [[1, 32], [16, 32]]


def answer(accuracy: float, p50: float, size: float | None = None, **more: float) -> Figures:
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.01, "rows": 3080, "load_s": 0.5, "peak_mb": 300.0}
    latency = {
        name: {f"p{each}_ms": p50 * factor * times for each, times in ((50, 1), (95, 1.2), (99, 2))}
        for name, factor in (("batch1_tokens32", 1), ("batch16_tokens32", 8))
    }
    return figures(metrics | ({} if size is None else {"bytes": size}) | more, latency)


VERDICT = "No baseline is inside the budget; the best, tfidf_svm, keeps 90.5% of the teacher's accuracy."
OF_WINNER = {"agreement": 0.9712, "ece": 0.0523, "accuracy_low": 0.935, "accuracy_high": 0.953, "joules_per_1000": 12.5}
EVALUATION = {
    "task": "classify",
    "answers": {
        "tfidf_svm": answer(0.86, 0.5, agreement=0.87),
        "teacher": answer(0.95, 20.0, 90e6, ece=0.0412),
        "student": answer(0.946, 8.0, 99e6),
        "winner": {**answer(0.944, 1.25, 15e6, **OF_WINNER), "shares": {"batch1_tokens32": {"int8": 0.318}}},
    },
    "shapes": SHAPES,
    "notes": ["Energy: an estimate of <what>."],
    "budgeted": {"winner": {"metric": 0.944, "retention": 0.9321, "p95_ms": 1.77, "megabytes": 15.0}},
    "first": [VERDICT],
    "behind": [
        {"slice": "class", "value": "card_<b>arrival</b>", "rows": 40, "teacher": 0.95, "winner": 0.875},
        {"slice": "channel", "value": "phone", "rows": 900, "teacher": 0.9, "winner": 0.89},
    ],
}
