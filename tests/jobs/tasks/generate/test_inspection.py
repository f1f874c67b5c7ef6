from __future__ import annotations

import logging

import pyarrow
import pytest
from tokenizers import Tokenizer

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.tokenise import train_tokenizer
from jobs.tasks.generate.inspection import inspect
from tests.tiny.shop import tokenizer

PROMPTS = ["late", "refund", "lost", "size"]
ANSWERS = ["your order is late", "money back", "it is lost", "the size is small"]


def table(prompts: list[str], answers: list[str]) -> pyarrow.Table:
    pairs = pyarrow.array([None] * len(prompts), pyarrow.large_string())
    return pyarrow.table({"text": prompts, "pair": pairs, "label": answers})


def inspected(made: Tokenizer, answers: list[str] = ANSWERS, prompts: list[str] = PROMPTS, **data: object) -> None:
    told = DataSpec.model_validate({"train": "rows.csv", "validation": "other.csv", "max_length": 40, **data})
    inspect({"train": table(prompts, answers)}, made, told, "teacher.model: m")


@pytest.fixture
def bytes_() -> Tokenizer:
    """A token a byte."""
    return train_tokenizer([], 257)


def test_rows_that_a_decoder_can_learn_pass_in_silence(bytes_: Tokenizer, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    inspected(bytes_)
    assert caplog.messages == []


def test_answers_that_are_cut_are_counted_and_a_length_is_named(bytes_: Tokenizer, caplog: pytest.LogCaptureFixture):
    inspected(bytes_, max_length=23)
    (said,) = caplog.messages
    assert said == (
        "data.max_length=23 cuts 1 of 4 answers of data.train: rows.csv before their end; 24 tokens would hold 99 % of "
        "the rows"
    )
    caplog.clear()
    inspected(bytes_, max_length=24)  # the end of the text is the last token
    assert caplog.messages == []


def test_rows_most_of_whose_answers_are_cut_are_refused(bytes_: Tokenizer):
    inspected(bytes_, max_length=18)  # half of them
    with pytest.raises(
        UsageError, match=r"^data\.max_length: 14: cuts 4 of 4 answers of data\.train: rows\.csv before "
    ):
        inspected(bytes_, ["order " * 3] * 4, max_length=14)
    told = DataSpec(validation="other.csv", max_length=14)
    with pytest.raises(UsageError, match=r"^data\.max_length: 14: cuts 3 of 4 answers of data\.validation: other\.csv"):
        inspect({"validation": table(PROMPTS, ["no", *ANSWERS[:1] * 3])}, bytes_, told, "m")


def test_a_placeholder_that_vanishes_is_told_where_it_is_rare_and_refused_where_it_is_not(
    bytes_: Tokenizer, caplog: pytest.LogCaptureFixture
):
    bytes_.add_special_tokens(["<order_id>"])
    inspected(bytes_, ["order <order_id>", *ANSWERS[1:]])
    (said,) = caplog.messages
    assert said == (
        "data.train: rows.csv: the tokenizer of teacher.model: m does not give back the answers as they are, 1 of 4 "
        "(25.0%): the special token '<order_id>' is left out (1)"
    )
    often = ["order <order_id>"] * 2 + ANSWERS[2:]
    with pytest.raises(UsageError, match=r"^teacher\.model: m: its tokenizer does not give back .*, 2 of 4 \(50\.0%\)"):
        inspected(bytes_, often)
    inspected(bytes_, often, max_changed=0.5)
    with pytest.raises(UsageError, match=r"data\.max_changed=0;"):
        inspected(bytes_, ["order <order_id>", *ANSWERS[1:]], max_changed=0)


def test_what_is_changed_is_noted_for_the_manifest(bytes_: Tokenizer):
    told = DataSpec.model_validate({"train": "rows.csv", "validation": "other.csv", "max_length": 40})
    assert inspect({"train": table(PROMPTS, ANSWERS)}, bytes_, told, "m") == {}
    bytes_.add_special_tokens(["<order_id>"])
    facts = inspect({"train": table(PROMPTS, ["order <order_id>", *ANSWERS[1:]])}, bytes_, told, "m")
    assert facts["changed"]["share"] == 0.25 and facts["changed"]["words"].startswith("1 of 4 (25.0%): the special")


def test_spaces_between_all_characters_are_refused():
    answers = ["快递还没到", "退款", "尺码太小", "发票"]
    with pytest.raises(UsageError, match=r"4 of 4 \(100\.0%\): spaces are put in or left out \(4\)") as refused:
        inspected(tokenizer(answers), answers)
    assert "快" not in str(refused.value)


def test_a_prompt_of_which_nothing_is_left_is_refused_by_its_row(bytes_: Tokenizer):
    prompts = ["late", "\u200b\u200b", "lost", "size"]
    with pytest.raises(
        UsageError, match=r"^data\.train: rows\.csv: row 2: the tokenizer of teacher\.model: m keeps nothing"
    ):
        inspected(tokenizer([*ANSWERS, *PROMPTS]), prompts=prompts)
    inspected(bytes_, prompts=prompts)


def test_what_is_cut_off_is_not_what_is_lost(bytes_: Tokenizer, caplog: pytest.LogCaptureFixture):
    """Rows beyond those of one call are read too."""
    inspected(bytes_, ANSWERS * 2000, PROMPTS * 2000, max_length=23)
    assert [each.split(" of ")[:2] for each in caplog.messages] == [["data.max_length=23 cuts 2000", "8000 answers"]]
