from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data import leaks
from jobs.data.leaks import Finding, Hashes, normal
from jobs.data.source import Split, hashes, rows

Given = dict[str, list[tuple[str, str]]]
PLANTED: Given = {
    "train": [
        *((f"where is order {number}", "track") for number in range(20)),
        ("Money back, please!", "refund"),  # line 21; validation has it letter for letter
        ("cancel it", "cancel"),  # 22
        ("CANCEL IT!", "cancel"),  # 23 repeats 22
        ("my size", "size"),  # 24
        ("my  size?", "fit"),  # 25 repeats 24 under another label
        ("late parcel", "track"),  # 26; test has it
    ],
    "validation": [
        *((f"when comes order {number}", "track") for number in range(10)),
        ("Money back, please!", "refund"),  # 11
        ("cancel it.", "refund"),  # 12: not as in training
        ("a test row", "refund"),  # 13
    ],
    "unlabelled": [
        ("nobody said this", ""),
        ("late  parcel", ""),
        ("Where is order 3?", ""),
        ("money back please", ""),
    ],
    "test": [("unseen", "track"), ("Late parcel", "track"), ("a TEST row", "size"), ("unseen!", "size")],
}


def write(folder: Path, given: Given = PLANTED, **fields: object) -> DataSpec:
    for split, some in given.items():
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in some]
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return DataSpec.model_validate({split: str(folder / f"{split}.jsonl") for split in given} | fields)


def seen(data: DataSpec) -> dict[Split, Hashes]:
    found: dict[Split, Hashes] = {}
    for split in ("train", "validation", "unlabelled", "test"):
        if getattr(data, split):
            list(rows(data, split, found))
    return found


def compare(data: DataSpec, split: Split) -> dict[str, Finding]:
    return {each.other: each for each in leaks.findings(seen(data), split, labelled=True)}


def test_what_is_planted_is_counted_exactly(tmp_path: Path):
    data = write(tmp_path)
    train, validation = compare(data, "train"), compare(data, "validation")
    unlabelled, test = compare(data, "unlabelled"), compare(data, "test")

    def counts(found: Finding) -> tuple[int, int, int]:
        return found.same, found.written_alike, found.contradicting

    assert {other: counts(each) for other, each in train.items()} == {"train": (2, 0, 2)}
    assert {other: counts(each) for other, each in validation.items()} == {"train": (2, 1, 1), "validation": (0, 0, 0)}
    assert counts(unlabelled["train"]) == (3, 0, 0)
    assert counts(unlabelled["validation"]) == (1, 0, 0)
    assert counts(test["train"]) == (1, 0, 0)
    assert counts(test["validation"]) == (1, 0, 1)
    assert counts(test["unlabelled"]) == (1, 0, 0)
    assert counts(test["test"]) == (1, 0, 2)
    assert (train["train"].same_lines, train["train"].contradicting_lines) == ([23, 25], [24, 25])
    assert (validation["train"].same_lines, validation["train"].contradicting_lines) == ([11, 12], [12])
    assert [each.is_leak for each in unlabelled.values()] == [False, True, False]
    assert validation["train"].same_words == (
        "2 of 13 rows of data.validation have the text of a row of data.train (1 letter for letter): lines 11, 12"
    )


def test_what_is_dropped_is_what_was_held_against_the_model_and_never_a_test_row(tmp_path: Path):
    data = write(tmp_path, on_leak="drop")
    kept = {split: [row.text for row in rows(data, split)] for split in ("train", "validation", "unlabelled", "test")}
    assert kept["test"] == [text for text, _ in PLANTED["test"]]
    assert kept["validation"] == [text for text, _ in PLANTED["validation"] if text != "a test row"]
    gone = {"Money back, please!", "cancel it", "CANCEL IT!", "late parcel"}
    assert kept["train"] == [text for text, _ in PLANTED["train"] if text not in gone]
    assert kept["unlabelled"] == ["nobody said this", "Where is order 3?"]
    found = seen(data)
    assert {split: list(each.left_out) for split, each in found.items()} == {
        "train": [21, 22, 23, 26],
        "validation": [13],
        "unlabelled": [2, 4],
        "test": [],
    }
    every = [each for split in found for each in leaks.findings(found, split, labelled=True)]
    assert not any(each.is_leak for each in every)


def test_where_nothing_is_left_it_is_said_why(tmp_path: Path):
    data = write(tmp_path, {split: [("a b", "x")] for split in ("train", "validation", "test")}, on_leak="drop")
    with pytest.raises(
        UsageError, match=r"validation\.jsonl: data\.on_leak=drop leaves no row: .* those of data\.test"
    ):
        list(rows(data, "validation"))


def test_made_up_test_rows_are_not_held_against_other_rows(tmp_path: Path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"said": split, "label": "x"}))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    data = DataSpec.model_validate({**files, "text": "said", "on_leak": "drop"})  # a column that the shop's rows lack
    assert [row.text for row in rows(data, "train")] == ["train"]


def test_pairs_are_the_same_where_both_texts_are(tmp_path: Path):
    for split, pairs in {
        "train": [("a", "b"), ("c", "d")],
        "validation": [("a", "d"), ("A", "B!"), ("ab", "")],
    }.items():
        lines = [json.dumps({"text": text, "other": pair or "-", "label": "x"}) for text, pair in pairs]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    data = DataSpec.model_validate({**files, "test": None, "text_pair": "other"})
    assert compare(data, "validation")["train"].same_lines == [2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where is my order?", "where is  MY order", True),
        ("order 12", "order 13", False),
        ("ｏｒｄｅｒ １２", "Order 12", True),  # noqa: RUF001 - full width, as NFKC folds it
        ("Größe", "größe!", True),
        ("Größe", "Grösse", False),
        ("快递没到", "快递没到。", True),
        ("好", "差", False),
        ("कि", "का", False),  # vowels are marks, and belong to their letters
        ("😀", "😡", False),  # signs count where there is nothing else
        ("😀", " 😀", True),
        ("!!", "??", False),
        ("great 😀", "great", True),
    ],
)
def test_texts_are_the_same_where_their_letters_and_digits_are(one: str, other: str, same: bool):
    assert (normal(one) == normal(other)) == same


def test_hashes_are_what_is_read_again_and_no_text_is_kept(tmp_path: Path):
    data = write(tmp_path)
    found = seen(data)
    leaks.write(tmp_path / "hashes", found | {"empty": Hashes()})
    again = leaks.read(tmp_path / "hashes")
    assert again.keys() == found.keys()
    for split, each in found.items():
        for column in ("texts", "written", "labels"):
            assert list(getattr(again[split], column)) == list(getattr(each, column))
    before = [each[:6] for each in leaks.findings(found, "test", True)]
    assert [each[:6] for each in leaks.findings(again | {"test": found["test"]}, "test", True)] == before
    assert b"parcel" not in (tmp_path / "hashes").read_bytes()


def test_of_rows_that_are_only_hashed_no_label_is_looked_at(tmp_path: Path):
    (tmp_path / "test.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    found = hashes(DataSpec.model_validate({"test": str(tmp_path / "test.jsonl"), "slices": ["channel"]}), "test")
    assert (list(found.lines), found.unit, set(found.labels)) == ([1, 3], "lines", {leaks.NOTHING})
