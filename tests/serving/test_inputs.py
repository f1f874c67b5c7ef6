from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema.data import DataSpec
from jobs.data.source import rows
from serving.inputs import InputError, Reading, checked, joined

ATTRIBUTES = {"name": "Apollo", "inch": 40}
WORDS = "name: Apollo; inch: 40"


@pytest.mark.parametrize("given", [ATTRIBUTES, [["name", "Apollo"], ["inch", 40]], WORDS])
def test_attributes_read_in_use_as_they_did_in_training(given: Any, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": given, "label": "a"}) + "\n")
    (row,) = rows(DataSpec(train=str(file)), "train")
    assert checked([given], pairs=False, attributes=True) == [row.text] == [WORDS]


def test_each_text_of_a_pair_may_be_attributes():
    given = [{"text": ATTRIBUTES, "text_pair": "inform"}, ("inform", WORDS)]
    assert checked(given, pairs=True, attributes=True) == [(WORDS, "inform"), ("inform", WORDS)]


@pytest.mark.parametrize("given", [ATTRIBUTES, [["name", "Apollo"]], {"text": "a", "text_pair": "b"}])
def test_a_model_of_texts_takes_no_attributes(given: Any):
    with pytest.raises(InputError, match=r"input 1 is not a text$"):
        checked(["fine", given], pairs=False)


@pytest.mark.parametrize(
    "wrong", [{"secret": True}, {"secret": {}}, ["secret"], [["secret", "b", "c"]], {"a": [["secret"]]}]
)
def test_what_is_no_attribute_is_refused_and_not_repeated(wrong: Any):
    with pytest.raises(InputError, match="input 1: an attribute is a name with a text, a number or a list") as refused:
        checked(["fine", wrong], pairs=False, attributes=True)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("wrong", [7, None, ("a", "b")])
def test_other_things_are_still_refused(wrong: Any):
    with pytest.raises(InputError, match=r"input 0 is not a text \(or attributes in place of a text\)"):
        checked([wrong], pairs=False, attributes=True)


def test_joined_is_one_text_of_what_there_is():
    assert joined("one") == "one"
    assert joined(("one", "")) == "one"
    assert joined(("one", "two")) == "one two"


@pytest.mark.parametrize(("tokens", "unknown", "share"), [(0, 0, 0.0), (1, 0, 0.0), (1, 1, 1.0), (8, 2, 0.25)])
def test_of_no_tokens_none_are_unknown(tokens: int, unknown: int, share: float):
    assert Reading(tokens, unknown, cut=False).unknown_share == share
    assert Reading(tokens, unknown, cut=True).unknown_share == share
