from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from configs.folder import commit
from configs.loader import UsageError
from configs.schema.data import DataSpec
from jobs.data.batches import NO_TARGET
from jobs.data.feeds import take
from jobs.data.prepared import MANIFEST, ROWS, Examples, Prepared, has_key
from jobs.data.tokenise import (
    END,
    _blocks,
    checked,
    classes,
    tokenise_classes,
    tokenise_completions,
    train_tokenizer,
)
from jobs.tasks.generate.rows import LEAST_TIMES
from serving.bundle import Bundle
from serving.classifier import Classifier
from tests.tiny.shop import tokenizer

TEXTS = ["where is my order", "refund it please, now", "cancel"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tokenizer(TEXTS)


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table(texts: list[str], labels: list[str], pairs: list[str] | None = None) -> pyarrow.Table:
    return pyarrow.table(
        {
            "split": pyarrow.array(["train"] * len(texts), pyarrow.string()),
            "row": pyarrow.array(range(len(texts)), pyarrow.int64()),
            "text": pyarrow.array(texts, pyarrow.large_string()),
            "pair": pyarrow.array(pairs or [None] * len(texts), pyarrow.large_string()),
            "label": pyarrow.array(labels, pyarrow.string()),
        }
    )


def labelled(*labels: str) -> pyarrow.Table:
    return table(["x"] * len(labels), list(labels))


def test_checked_rows_keep_their_order_and_number_themselves(tmp_path: Path):
    source = write(tmp_path, "rows.jsonl", [{"text": text, "label": "a"} for text in TEXTS])
    made, _ = checked(DataSpec.model_validate({"train": source}), "train")
    assert made["text"].to_pylist() == TEXTS
    assert made["row"].to_pylist() == [0, 1, 2]
    assert made["pair"].null_count == 3
    assert made["attributes"].to_pylist() == [False] * 3


def test_rows_say_which_of_them_were_attributes(tmp_path: Path):
    said: list[dict[str, object]] = [{"text": {"name": "Apollo"}, "label": "a"}, {"text": "name: Apollo", "label": "a"}]
    made, _ = checked(DataSpec.model_validate({"train": write(tmp_path, "rows.jsonl", said)}), "train")
    assert made["text"].to_pylist() == ["name: Apollo"] * 2
    assert made["attributes"].to_pylist() == [True, False]


def test_the_fingerprint_is_of_what_the_rows_say_not_of_the_file(tmp_path: Path):
    rows: list[dict[str, object]] = [{"text": text, "label": "a"} for text in TEXTS]
    variants = {
        "same.jsonl": [{"other": 1, **row} for row in rows],
        "order.jsonl": rows[::-1],
        "label.jsonl": [*rows[:-1], {"text": TEXTS[-1], "label": "b"}],
        "fewer.jsonl": rows[:-1],
    }
    first = checked(DataSpec.model_validate({"train": write(tmp_path, "rows.jsonl", rows)}), "train")[1]
    prints = {
        name: checked(DataSpec.model_validate({"train": write(tmp_path, name, variant)}), "train")[1]
        for name, variant in variants.items()
    }
    assert prints.pop("same.jsonl") == first
    assert first not in prints.values()


def test_classes_are_sorted_names():
    assert classes(labelled("b", "a", "b", "10", "9"), {}, DataSpec.model_validate({})) == ["10", "9", "a", "b"]


def test_a_label_that_training_never_sees_is_refused():
    data = DataSpec.model_validate({"validation": "val.csv"})
    with pytest.raises(UsageError, match=r"data\.validation: val\.csv: label 'c' never occurs in training \(2 such"):
        classes(labelled("a", "b"), {"validation": labelled("a", "d", "c")}, data)


def test_a_text_in_the_column_of_labels_is_not_shown():
    data = DataSpec.model_validate({"validation": "val.csv", "label": "text"})
    with pytest.raises(UsageError, match=r"val\.csv: label of row 2 \(13 characters, not shown: .*\) never occurs in"):
        classes(labelled("a b", "b"), {"validation": labelled("a b", "I am Jane Roe")}, data)


def test_one_class_is_refused():
    with pytest.raises(UsageError, match=r"data\.train: embedded:shop: column 'label' holds one class"):
        classes(labelled("a", "a"), {}, DataSpec.model_validate({}))


def test_more_classes_than_could_be_meant_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.tokenise.MOST_CLASSES", 3)
    with pytest.raises(UsageError, match="holds 4 classes; more than 3 look like texts or ids, name the column"):
        classes(labelled("a", "b", "c", "d"), {}, DataSpec.model_validate({}))


def test_tokens_are_those_of_the_tokenizer_alone_cut_to_its_length(words: Tokenizer):
    words.enable_truncation(5)
    made = tokenise_classes(table(TEXTS, ["a", "b", "a"]), words.to_str(), ["a", "b"])
    assert made["input_ids"].to_pylist() == [words.encode(text).ids for text in TEXTS]
    assert max(made["length"].to_pylist()) <= 5
    assert made["label"].to_pylist() == [0, 1, 0]
    assert not {"text", "pair"} & set(made.column_names)
    words.no_truncation()


def test_pairs_are_told_apart_by_type(words: Tokenizer):
    made = tokenise_classes(table(["order"], ["a"], ["refund"]), words.to_str(), ["a", "b"])
    expected = words.encode("order", "refund")
    assert made["input_ids"].to_pylist() == [expected.ids]
    assert made["type_ids"].to_pylist() == [expected.type_ids]
    assert set(expected.type_ids) == {0, 1}


class Noted:
    """Answers nothing in particular; notes the tokens that each row is answered for, and what fills it up."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []

    def logits(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        for ids, mask in zip(feed["input_ids"], feed["attention_mask"] > 0, strict=True):
            self.seen.append((ids[mask].tolist(), ids[~mask].tolist()))
        return np.zeros((len(feed["input_ids"]), 2), np.float32)


@pytest.mark.parametrize("pad", ["[PAD]", "<pad>", None], ids=str)
@pytest.mark.parametrize("text", ["", "\u200b\u200b", "\x07\x1b"], ids=["empty", "zero width", "control"])
def test_a_text_without_tokens_is_one_token_of_padding_in_training_and_in_use(text: str, pad: str | None):
    """Alone and beside others, so that its answer does not depend on the batch."""
    vocabulary = {word: index for index, word in enumerate(filter(None, ["[UNK]", "order", "my", pad]))}
    bare = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    bare.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    nothing = [vocabulary.get(pad or "", 0)]
    made = tokenise_classes(table([text, "my order"], ["a", "b"]), bare.to_str(), ["a", "b"])
    assert made["input_ids"].to_pylist() == [nothing, [2, 1]]
    assert made["text_tokens"].to_pylist() == [0, 2]
    (feed,) = take(Examples.from_table(made), ["input_ids", "attention_mask"], nothing[0], 2).feeds
    assert (feed["input_ids"].tolist(), feed["attention_mask"].tolist()) == (
        [[*nothing, *nothing], [2, 1]],
        [[1, 0], [1, 1]],
    )
    served = Noted()
    bundle = Bundle(
        name="b", task="classify", labels=["a", "b"], runtime="onnxruntime", model="m", max_length=8,
        inputs=["input_ids", "attention_mask"],
    )  # fmt: skip
    for texts in ([text], [text, "my order", text]):
        Classifier(bundle, served, bare).logits(texts)
    assert [ids for ids, _ in served.seen] == [nothing, nothing, nothing, [2, 1]]


def test_a_row_without_a_label_has_no_target(words: Tokenizer):
    rows = table(TEXTS, ["a", "b", "a"]).set_column(4, "label", pyarrow.array(["b", None, "a"], pyarrow.string()))
    assert tokenise_classes(rows, words.to_str(), ["a", "b"])["label"].to_pylist() == [1, NO_TARGET, 0]


def test_joined_examples_stand_one_part_after_the_other(words: Tokenizer):
    made = tokenise_classes(table(TEXTS, ["a", "b", "a"]), words.to_str(), ["a", "b"])
    joined = Examples.joined(Examples.from_table(made.slice(1)), Examples.from_table(made), Examples.from_table(made))
    expected = Examples.from_table(pyarrow.concat_tables([made.slice(1), made, made]))
    for name in ("ids", "types", "offsets", "labels"):
        assert getattr(joined, name).tolist() == getattr(expected, name).tolist()
        assert getattr(joined, name).dtype == getattr(expected, name).dtype


def test_blocks_hold_every_row_once_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.tokenise.ROWS_PER_BLOCK", 2)
    blocks = list(_blocks(labelled("a", "b", "c", "d", "e")))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert [label for block in blocks for label in block["label"].to_pylist()] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_examples_are_the_tokens_of_a_table_even_of_a_slice(words: Tokenizer, start: int):
    made = tokenise_classes(table(TEXTS, ["a", "b", "a"]), words.to_str(), ["a", "b"])
    examples = Examples.from_table(made.slice(start))
    assert len(examples) == 3 - start
    assert examples.lengths.tolist() == made["length"].to_pylist()[start:]
    found = [examples.ids[a:b].tolist() for a, b in zip(examples.offsets[:-1], examples.offsets[1:], strict=True)]
    assert found == made["input_ids"].to_pylist()[start:]
    assert examples.labels.tolist() == made["label"].to_pylist()[start:]
    assert len(examples.types) == len(examples.ids)
    assert (examples.labels.dtype, examples.offsets.dtype) == (np.int64, np.int64)


def test_examples_of_several_shards_come_back_in_the_order_of_the_rows(tmp_path: Path, words: Tokenizer):
    import pyarrow.parquet

    made = tokenise_classes(table(TEXTS, ["a", "b", "a"]), words.to_str(), ["a", "b"])

    def fill(aside: Path) -> dict[str, object]:
        (aside / ROWS).mkdir()
        pyarrow.parquet.write_table(made.slice(2), aside / ROWS / "0.parquet")
        pyarrow.parquet.write_table(made.slice(0, 2), aside / ROWS / "1.parquet")
        return {"key": "k", "labels": ["a", "b"]}

    commit(tmp_path / "prepared", MANIFEST, fill)
    prepared = Prepared.open(tmp_path / "prepared")
    assert prepared.examples("train").ids.tolist() == [token for ids in made["input_ids"].to_pylist() for token in ids]
    assert (prepared.key, prepared.labels) == ("k", ["a", "b"])


def test_a_folder_of_other_inputs_a_damaged_one_and_none_have_no_key(tmp_path: Path):
    assert not has_key(tmp_path / "prepared", MANIFEST, "k")
    commit(tmp_path / "prepared", MANIFEST, lambda aside: {"key": "k"})
    assert has_key(tmp_path / "prepared", MANIFEST, "k")
    assert not has_key(tmp_path / "prepared", MANIFEST, "other")
    (tmp_path / "prepared" / MANIFEST).write_text('{"key": "k"')
    assert not has_key(tmp_path / "prepared", MANIFEST, "k")


def test_a_trained_tokenizer_gives_every_text_back_and_keeps_its_end_for_itself():
    made = train_tokenizer([*TEXTS, "Größe 38"], 320)
    assert made.get_vocab_size() <= 320
    assert made.token_to_id(END) == 0
    for text in (*TEXTS, "Größe 38", "never seen: ☃"):
        assert made.decode(made.encode(text).ids) == text
        assert 0 not in made.encode(text).ids


def test_a_word_that_is_said_once_is_no_token_of_a_trained_tokenizer():
    texts = [*[text for text in TEXTS for _ in range(LEAST_TIMES)], "from Quimperlegrande"]
    tokens = {least: "".join(train_tokenizer(texts, 900, least).get_vocab()) for least in (1, LEAST_TIMES)}
    assert "Quimperlegrande" in tokens[1]
    assert "Qu" not in tokens[LEAST_TIMES] and "refund" in tokens[LEAST_TIMES]


def test_completions_follow_their_prompt_and_are_marked():
    words = train_tokenizer(TEXTS, 320)
    made = tokenise_completions(table(["refund", "cancel"], ["yes", "no"], ["now", "it"]), words.to_str(), 0, 40)
    for row, (prompt, completion) in enumerate([("refund\nnow\n", "yes"), ("cancel\nit\n", "no")]):
        ids, types = made["input_ids"][row].as_py(), made["type_ids"][row].as_py()
        split = types.index(1)
        assert (words.decode(ids[:split]), words.decode(ids[split:-1]), ids[-1]) == (prompt, completion, 0)
        assert types == sorted(types)
        assert made["length"][row].as_py() == len(ids)


def test_a_completion_that_is_too_long_is_cut():
    words = train_tokenizer(TEXTS, 320)
    whole = tokenise_completions(table(["cancel"], ["refund it please"]), words.to_str(), 0, 40)
    cut = tokenise_completions(
        table(["cancel"], ["refund it please"]), words.to_str(), 0, len(whole["input_ids"][0]) - 2
    )
    assert cut["input_ids"][0].as_py() == whole["input_ids"][0].as_py()[:-2]
    assert cut["type_ids"][0].as_py()[-1] == 1


def test_of_each_row_the_unknown_tokens_and_whether_it_was_cut_are_counted(words: Tokenizer):
    words.enable_truncation(5)
    made = tokenise_classes(table(["refund", "refund 快递", "refund it please now"], ["a"] * 3), words.to_str(), ["a"])
    words.no_truncation()
    assert made["cut"].to_pylist() == [False, False, True]
    assert made["text_tokens"].to_pylist() == [size - 2 for size in made["length"].to_pylist()]
    assert made["unknown"].to_pylist() == [0, made["text_tokens"][1].as_py() - 1, 0]


def test_bytes_leave_nothing_unknown():
    words = train_tokenizer(TEXTS, 320)
    made = tokenise_completions(table(["快递"], ["refund it please"]), words.to_str(), 0, 8)
    assert (made["unknown"].to_pylist(), made["cut"].to_pylist(), made["text_tokens"].to_pylist()) == ([0], [True], [8])
