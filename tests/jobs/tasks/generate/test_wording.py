from __future__ import annotations

import itertools
import json

from configs.schema.checks import ChecksSpec
from jobs.data.source import Row
from jobs.tasks.generate.wording import Learner
from serving.checks import Checks, Rules, Wording
from serving.inputs import prompt


def row(number: int, answer: str, **attributes: str) -> Row:
    slots = (("name", f"Tecra {number}"), *attributes.items())
    return Row("; ".join(map(": ".join, slots)), None, answer, slots)


def learned(rows: list[Row]) -> Wording:
    learner = Learner()
    for each in rows:
        learner.see(each)
    return Wording.model_validate(json.loads(learner.learned()))


ROWS = [
    row(n, f"The Tecra {n} has {n} gb, and Windows with 24 hours of help.", memory=f"{n} gb", sold="in May")
    for n in range(1, 41)
]


def test_attributes_that_answers_say_are_asked_for():
    wording = learned(ROWS)
    assert wording.said == ["memory", "name"]
    assert wording.spelled == ["name"]
    assert wording.values == sorted(
        [*(each.slots[0][1] for each in ROWS), *(each.slots[1][1] for each in ROWS), "in May"]
    )
    assert wording.units == ["gb"]


def test_what_answers_say_of_their_own_accord_may_be_said():
    wording = learned([*ROWS, row(50, "The Tecra 50 has 7 keys, says Ann.")])
    assert (wording.numbers, wording.names) == (["24"], ["windows"])


def test_an_attribute_that_some_answers_leave_out_is_not_asked_for():
    assert learned([*ROWS, *[row(n, f"The Tecra {n} is here today, good.", memory="9 gb") for n in range(3)]]).said == [
        "name"
    ]


def test_training_answers_hold_what_they_taught():
    asked = Checks(Rules(asked=ChecksSpec(enabled=True), wording=learned(ROWS)))
    assert [asked.faults(each.label, prompt(each.text, None)) for each in ROWS] == [[]] * len(ROWS)
    others = [asked.faults(one.label, prompt(other.text, None)) for one, other in itertools.pairwise(ROWS)]
    assert all("unsaid" in faults for faults in others)


def test_rows_without_attributes_teach_lengths_and_numbers():
    wording = learned([Row("where is my parcel", None, "it is on its way")] * 3)
    assert (wording.said, wording.min_words, wording.max_words) == ([], 5, 5)
    assert wording.max_repeated == 0
