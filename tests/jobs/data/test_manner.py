from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.manner import WITHOUT, taught, thinned
from jobs.data.snapshot import take_snapshot
from jobs.data.source import rows

LONG = "a very very long one of eight words"
RECORDS = [
    {"text": f"row {n}", "label": LONG[: 6 + 4 * (n % 8)], "tone": ("formal", "plain")[n % 2]} for n in range(400)
]


def data(tmp_path: Path, records: list[dict[str, Any]] = RECORDS, **fields: Any) -> DataSpec:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    made = DataSpec.model_validate({**files, "test": None, "style": "tone", "lengths": [3, 5], **fields})
    made.of_task(labelled=False)
    return made


def test_validation_rows_say_how_they_are_written_before_their_text(tmp_path: Path):
    first, *_, last = rows(data(tmp_path), "validation")
    assert first.text == "style: formal; length: short\nrow 0" and first.label == LONG[:6]
    assert last.text == "style: plain; length: long\nrow 399" and first.slots == ()
    (alone, *_) = rows(data(tmp_path, style=None), "validation")
    assert alone.text == "length: short\nrow 0"


def test_each_field_is_left_out_of_a_share_of_the_training_rows_so_that_a_request_may_leave_it_out(tmp_path: Path):
    manners = [row.manner for row in rows(data(tmp_path), "train")]
    for field in ("style", "length"):
        without = sum(field not in dict(manner) for manner in manners) / len(manners)
        assert without == pytest.approx(1 / WITHOUT, abs=0.06)
    assert sum(not manner for manner in manners) / len(manners) == pytest.approx(1 / WITHOUT**2, abs=0.04)
    both = (("style", "plain"), ("length", "long"))
    assert {thinned(both, row) for row in range(100)} == {both, both[:1], both[1:], ()}


def test_what_rows_taught_is_told_with_lengths_from_the_shortest(tmp_path: Path):
    manners = [row.manner for row in rows(data(tmp_path), "train")]
    expected = {"style": ["formal", "plain"], "length": ["short", "medium", "long"]}
    assert taught(manners, data(tmp_path), "rows") == expected
    assert taught([()], data(tmp_path, style=None, lengths=[]), "rows") == {}


@pytest.mark.parametrize(
    ("fields", "tones", "refused"),
    [
        ({}, ["formal"] * 3, "data.style: 'tone': rows: 1 styles; 2 to 50 can be taught, name another column"),
        ({}, list(map(str, range(60))), "data.style: 'tone': rows: 60 styles"),
        ({"lengths": [30, 40]}, ["a", "b"] * 9, r"data.lengths: \[30, 40\]: rows: no answer is medium; give other"),
    ],
)
def test_what_cannot_be_taught_is_refused(tmp_path: Path, fields: dict[str, Any], tones: list[str], refused: str):
    records = [{"text": f"row {n}", "label": LONG, "tone": tone} for n, tone in enumerate(tones)]
    spec = data(tmp_path, records, **fields)
    with pytest.raises(UsageError, match=refused):
        taught([row.manner for row in rows(spec, "validation")], spec, "rows")


@pytest.mark.parametrize("lengths", [[3], [5, 3], [3, 3], [1, 2, 3], [0, 2]])
def test_lengths_are_two_rising_numbers_of_words(lengths: list[int]):
    with pytest.raises(ValueError, match="lengths"):
        DataSpec.model_validate({"lengths": lengths})


def test_a_snapshot_gives_style_and_length_back(tmp_path: Path):
    spec = data(tmp_path)
    with take_snapshot(spec, "validation", tmp_path) as snapshot:
        assert snapshot.rows() == list(rows(spec, "validation"))
