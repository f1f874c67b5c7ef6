from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.schema.recipe import Recipe
from jobs.data.source import Row, rows
from jobs.measure.answers import input_of
from jobs.tasks.generate.baselines import fit_template, reader, template
from serving.inputs import worded

TV = (("name", "Apollo 73"), ("screen", "40 inch"), ("port", "2"), ("port", "HDMI 4"), ("usb", "true"))


def test_a_template_has_places_for_the_values_that_its_row_says():
    made = template(Row("", None, "the apollo 73 has 2 ports , an HDMI 4 port and USB", TV))
    assert set(made.values) == {("name", 0), ("port", 0), ("port", 1)}
    assert made.filled(TV) == "the Apollo 73 has 2 ports , an HDMI 4 port and USB"
    other = (("name", "Hermes 9"), ("port", "3"), ("port", "VGA"))
    assert made.filled(other) == "the Hermes 9 has 3 ports , an VGA port and USB"
    assert made.filled((("name", "Hermes 9"),)) == "the Hermes 9 has 2 ports , an HDMI 4 port and USB"


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [("a 140 inch screen", "40 inch", False), ("40寸电视", "40寸", True), ("a (40 inch) screen", "40 inch", True)],
)
def test_a_value_is_found_as_whole_words(text: str, value: str, found: bool):
    assert bool(template(Row("", None, text, (("screen", value),))).values) == found


def test_attributes_are_read_out_of_their_words_again():
    read = reader({name for name, _ in TV} | {"na"})
    assert read(worded(TV)) == TV
    assert read("no attributes: at all") == ()
    assert reader(set())("name: x") == ()


def fitted(folder: Path, *given: dict[str, object]):
    file = folder / "train.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in given))
    data = {"train": str(file), "text": "attributes", "label": "text"}
    data = Recipe.model_validate({"name": "x", "task": "generate", "data": data}).data
    return fit_template(data), [input_of(row) for row in rows(data, "train")]


def test_the_template_of_the_most_similar_attributes_is_filled_with_those_of_the_request(tmp_path: Path):
    predict, inputs = fitted(
        tmp_path,
        {"attributes": {"name": "Apollo 73", "screen": "40 inch"}, "text": "the Apollo 73 has a 40 inch screen"},
        {"attributes": {"name": "Hermes 9", "usb": "true"}, "text": "the Hermes 9 has USB"},
        {"attributes": {"name": "Notus 31", "usb": "false"}, "text": "there is no USB in the Notus 31"},
    )
    assert [each.text for each in predict(inputs)] == [row["text"] for row in told(tmp_path)]
    asked = ["name: Plutus 4; screen: 55 inch", "name: Plutus 4; usb: false", "name: Plutus 4; usb: true"]
    assert [each.text for each in predict(asked)] == [
        "the Plutus 4 has a 55 inch screen",
        "there is no USB in the Plutus 4",
        "the Plutus 4 has USB",
    ]
    assert predict.bytes > 0 and predict.of_length(32, 32) is predict


def told(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
