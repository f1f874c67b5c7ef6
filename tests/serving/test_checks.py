from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.schema.checks import ChecksSpec
from serving.bundle import CHECKS, BundleError
from serving.checks import FAULTS, Checks, Rules, Wording, names, numbers, read_checks, repeated
from serving.inputs import prompt, worded

LAPTOP = "name: Tecra 22; memory: 2 gb; warranty: 1 year; wifi: yes\n"
GOOD = "The Tecra 22 has 2 gb of memory and a warranty of 1 year."
WORDING = Wording(
    attributes=["memory", "name", "warranty", "wifi"],
    said=["memory", "name", "warranty", "wifi"],
    spelled=["name"],
    values=["Tecra 22", "Satellite 7", "3 years", "hairline finish"],
    units=["gb", "tb", "year", "inch"],
    numbers=["100"],
    names=["windows"],
    min_words=3,
    max_words=30,
    max_repeated=0.2,
)


def checks(**asked: Any) -> Checks:
    return Checks(Rules(asked=ChecksSpec.model_validate({"enabled": True, **asked}), wording=WORDING))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "With 2 gb, 1 years of warranty and WiFi: the Tecra 22.",  # a plural, and a yes that is no text
        "The Tecra 22 runs Windows, has 2 gb, 100 keys and 1 year of warranty.",  # which training answers say, too
        "the Tecra 22 has 2gb and 1-year warranty",
    ],
)
def test_a_text_that_says_what_was_given_has_no_fault(text: str):
    assert checks().faults(text, LAPTOP) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The Tecra 22 has 2 gb of memory.", "unsaid"),
        (GOOD + " It weighs 3 of them.", "number"),
        ("The Tecra 22 has 2 tb, that is 2 gb, and a warranty of 1 year.", "unit"),
        (GOOD + " Its hairline finish is new.", "value"),
        (GOOD + " Made by Toshiba.", "name"),
        (GOOD + " See the XZ2 as well.", "name"),
        ("The tecra 22 has 2 gb of memory and a warranty of 1 year.", "spelling"),
        (GOOD + " The Tecra 22 has 2 gb of memory and a warranty of 1 year.", "repetition"),
        (GOOD + " It is good, and a friend of many people who work and play, at home and on the way to it.", "length"),
    ],
)
def test_each_fault_is_found_alone(text: str, fault: str):
    assert checks().faults(text, LAPTOP) == [fault]


def test_what_a_recipe_asks_goes_before_what_is_usual():
    assert checks(max_words=5).faults(GOOD, LAPTOP) == ["length"]
    assert checks(blocked=["of Memory"]).faults(GOOD, LAPTOP) == ["blocked"]
    assert checks(blocked=["memor"]).faults(GOOD, LAPTOP) == []
    assert checks(brands=["WARRANTY"]).faults(GOOD, LAPTOP) == ["spelling"]
    twice = f"{GOOD} {GOOD}"
    assert checks(max_repeated=1).faults(twice, LAPTOP) == []
    lax = checks(said=False, given=False, spelled=False, min_words=0)
    assert lax.faults("tecra 23", LAPTOP) == []


def test_chinese_is_checked_by_its_characters():
    wording = WORDING.model_copy(
        update={
            "attributes": ["内存", "保修"],
            "said": ["内存"],
            "units": ["gb", "年"],
            "values": ["银色 外壳"],
            "min_words": 0,
        }
    )
    asked = Checks(Rules(asked=ChecksSpec(enabled=True), wording=wording))
    given = "内存: 8 GB; 保修: 2 年\n"
    assert asked.faults("这款电脑有8GB内存,保修2年。", given) == []
    assert asked.faults("这款电脑保修2年。", given) == ["unsaid"]
    assert asked.faults("这款电脑有8GB内存,保修3年。", given) == ["number"]
    assert asked.faults("这款电脑有8GB内存,银色外壳,保修2年。", given) == ["value"]


def test_numbers_are_compared_by_their_value():
    assert numbers("1,299.00 dollars, 2.50 kg, 1.2.3") == {"1299", "2.5", "1.2.3"}


def test_names_have_capitals_inside_a_sentence_or_digits():
    assert names("The Tecra is good. Buy it. An iPhone, a XZ500 and a 2gb stick") == {"tecra", "iphone", "xz500", "2gb"}


def test_repetition_is_the_share_of_threes_that_stood_before():
    assert repeated(["a", "b", "c", "a", "b", "c"]) == pytest.approx(1 / 4)
    assert repeated(["a", "b"]) == 0


def test_reasons_are_words_of_ours():
    assert all(reason.isascii() and reason[0].islower() for reason in FAULTS.values())


def test_checks_are_read_from_a_bundle(tmp_path: Path):
    rules = Rules(asked=ChecksSpec(enabled=True), wording=WORDING)
    (tmp_path / CHECKS).write_text(rules.model_dump_json())
    assert read_checks(tmp_path).faults(GOOD, LAPTOP) == []
    (tmp_path / CHECKS).write_text('{"asked": {}, "wording": {"said": 1}}')
    with pytest.raises(BundleError, match=r"checks\.json: wording\.said: Input should be a valid array"):
        read_checks(tmp_path)


def test_attributes_are_read_out_of_a_prompt_as_they_were_worded():
    slots = (("name", "Tecra: 22; new"), ("memory", "2 gb"), ("name", "Other 3"))
    assert checks().slots(prompt(worded(slots), "memory: 4 gb")) == (*slots, ("memory", "4 gb"))
    assert checks().slots("tell me of the memory: please") == ()
