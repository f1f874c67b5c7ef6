from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from configs.schema.tasks import TASKS, named
from jobs.data.source import Row
from jobs.tasks.generate import likeness
from jobs.tasks.generate.metrics import length_ratio, score, statistics

TASK = TASKS["generate"]
ROWS = [
    Row("p", None, "The Apollo 73 has a 40 inch screen .", (("name", "Apollo 73"), ("screen", "40 inch"))),
    Row("p", None, "A screen of 40 inch has the Apollo 73 .", (("name", "Apollo 73"), ("screen", "40 inch"))),
    Row("q", None, "The Hermes 9 has a matt black finish .", (("name", "Hermes 9"), ("colour", "matt black finish"))),
    Row("r", None, "No ."),
]
SAID = ["A screen of 40  inch has the Apollo 73 .", "The Apollo has a screen .", "The Hermes 9 is black .", "No"]


@pytest.mark.parametrize("name", [*TASK.metrics, *TASK.further])
def test_what_is_counted_of_each_row_adds_up_to_the_metric_of_all(name: str):
    summed = {**TASK.metrics, **TASK.further}[name]
    counted_NS = named(summed.statistics)(SAID, ROWS)
    assert len(counted_NS) == len(ROWS)
    assert named(summed.value)(counted_NS.sum(axis=0)) == pytest.approx(score(SAID, ROWS)[name])


def test_chrf_is_sacrebleus_also_with_several_references():
    references = [[ROWS[0].label, ROWS[1].label, ROWS[2].label, ROWS[3].label], [ROWS[1].label, ROWS[0].label, "", ""]]
    several = sacrebleu.corpus_chrf(SAID, [references[0], [text or None for text in references[1]]])  # type: ignore[list-item]
    assert score(SAID, ROWS)["chrf"] == pytest.approx(several.score)
    apart = [row._replace(text=row.label) for row in ROWS]
    assert score(SAID, apart)["chrf"] == pytest.approx(sacrebleu.corpus_chrf(SAID, references[:1]).score)


def test_a_text_matches_any_of_its_references_but_for_spaces():
    assert likeness.exact_counts(SAID, ROWS).tolist() == [[1, 1], [0, 1], [0, 1], [0, 1]]
    assert likeness.exact_counts(["cafe\u0301"], [Row("p", None, "caf\u00e9")]).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a b c", [0, 0]),
        ("a b c d", [0, 1]),
        ("a b c d A b c d", [1, 5]),  # the string a b c d twice
        ("no no no no no no", [2, 3]),
        ("我们我们我们", [1, 3]),
    ],
)
def test_strings_of_four_units_that_come_again_are_counted(text: str, counts: list[int]):
    assert likeness.repetition_counts([text], ROWS[:1]).tolist() == [counts]


def test_a_length_is_held_against_the_nearest_reference():
    rows = [Row("p", None, "a b c d"), Row("p", None, "a b c d e f g h")]
    assert length_ratio(statistics(["a b c d e f g", "a b"], rows).sum(axis=0)) == pytest.approx(9 / 12)


def test_slot_accuracy_is_of_rows_with_attributes_alone():
    assert score(SAID, ROWS)["slot_accuracy"] == 1 - score(SAID, ROWS)["slot_error_rate"] == 1 - 3 / 6
    assert "slot_accuracy" not in score(SAID[3:], ROWS[3:])
    assert likeness.share(np.zeros(2)) == 0
