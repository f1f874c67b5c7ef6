from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest

from cluster.session import JobError
from configs.schema.compression import QuantizeSpec
from jobs.compression import int8
from jobs.compression.checks.sensitivity import guarded, lost, sensitivity
from jobs.compression.logits import logits
from jobs.data.feeds import Rows, take
from jobs.tasks.classify.judging import metric, of_labels
from tests.tiny.graph import LAYERS, write_graph
from tests.tiny.workplace import INPUTS, examples

SPEC = QuantizeSpec(step="quantize")


class Case:
    """A float file, its conversion, and rows that it answers right."""

    def __init__(self, folder: Path, ruined: str | None) -> None:
        self.whole = write_graph(folder / "0.onnx", ruined)
        self.made = folder / "1.onnx"
        self.converted: list[list[str]] = []
        self.graph = int8.read(self.whole)
        rows = take(examples(300), INPUTS, 0, 300)
        self.rows = Rows(rows.feeds, logits(self.whole, rows).argmax(1))
        self.gauge = of_labels(self.rows, lambda: self.rows)
        self.ranges = int8.calibrate(self.graph, rows.feeds, SPEC, folder)

    def convert(self, chosen: Collection[str]) -> Path:
        self.converted.append(list(chosen))
        int8.quantize(self.graph, self.ranges, chosen, SPEC, self.made)
        return self.made


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str | None], Case]:
    return lambda ruined: Case(tmp_path, ruined)


@pytest.mark.parametrize("ruined", ["first", "second", "head"])
def test_exactly_the_layer_that_8_bits_ruin_is_left_in_float(case: Callable[[str | None], Case], ruined: str):
    given = case(ruined)
    assert metric(given.convert(LAYERS), given.rows) < 0.6
    found = guarded(given.whole, LAYERS, given.convert, given.gauge, 0.1)
    assert found.in_float == [ruined]
    assert next(iter(found.sensitivity)) == ruined
    assert found.before == 1
    assert found.after == metric(given.made, given.rows) >= 0.9
    assert given.converted[-1] == [layer for layer in LAYERS if layer != ruined]  # the file that is left


def test_what_is_guarded_is_the_metric_that_is_asked_for(case: Callable[[str | None], Case]):
    """Where one label is rare, accuracy hardly sees that it is lost."""
    given = case(None)
    rows = Rows(given.rows.feeds, given.rows.labels.copy())
    rows.labels[:30] = (rows.labels[:30] + 1) % (rows.labels.max() + 1)
    named = {name: of_labels(rows, lambda: rows, name) for name in ("accuracy", "macro_f1")}
    assert {name: each.name for name, each in named.items()} == {"accuracy": "accuracy", "macro_f1": "macro_f1"}
    assert named["accuracy"].metric(given.whole) != named["macro_f1"].metric(given.whole) > 0


def test_nothing_is_left_in_float_and_no_layer_measured_where_the_loss_is_inside(case: Callable[[str | None], Case]):
    given = case(None)
    found = guarded(given.whole, LAYERS, given.convert, given.gauge, 0.1)
    assert (found.in_float, found.sensitivity, given.converted) == ([], {}, [LAYERS])


def test_the_guard_gives_up_in_one_line_where_one_layer_alone_loses_too_much(case: Callable[[str | None], Case]):
    given = case("first")
    with pytest.raises(
        JobError, match=r"^int8: validation accuracy falls from 1 to 0\.\d+ with first alone in 8 bits"
    ) as no:
        guarded(given.whole, ["first"], given.convert, given.gauge, 0.1)
    assert "\n" not in str(no.value)


def test_sensitivity_is_the_divergence_from_the_answers_in_float(case: Callable[[str | None], Case]):
    given = case(None)
    found = sensitivity(given.whole, LAYERS, given.convert, given.gauge)
    assert list(found) == LAYERS and all(each > 0 for each in found.values())
    float_NC, int8_NC = (
        np.exp(each) / np.exp(each).sum(1, keepdims=True)
        for each in (logits(given.whole, given.rows), logits(given.convert(["second"]), given.rows))
    )
    expected = (float_NC * np.log(float_NC / int8_NC)).sum(1).mean()
    assert found["second"] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(0.8, 0.6, 0.25), (0.9, 0.9, 0), (0.5, 0.6, -0.2), (0.5, 0, 1), (0, 0, 0), (0, 0.5, 0)],
)
def test_a_loss_is_a_share_of_what_there_was(before: float, after: float, share: float):
    assert lost(before, after) == pytest.approx(share)
