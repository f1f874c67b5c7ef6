from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from configs.folder import commit
from configs.loader import UsageError
from configs.schema.data import DataSpec, PoolSpec
from jobs.data import tokenise
from jobs.data.augment import Inputs
from jobs.data.batches import NO_TARGET
from jobs.data.pool import cut_to_length, make_pool, mask_token
from jobs.data.prepared import MANIFEST, TOKENIZER, Prepared
from tests.tiny.shop import SPECIAL, tokenizer, write_locally

MAX_LENGTH = 10
TRAIN = ["where is my order", "refund it please, now or never", "cancel the order of this morning"]
VALIDATION = ["it is my order"]
UNLABELLED = ["the order never came", "where  is my order", "it is my order", "the order never came"]


class Shop:
    """Three training rows, one validation row and their tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.words = folder, tokenizer([*TRAIN, *UNLABELLED])
        self.words.enable_truncation(MAX_LENGTH)
        for split, texts in {"train": TRAIN, "validation": VALIDATION}.items():
            self.write(split, texts)
        self.prepared = self.prepare("rows")

    def write(self, split: str, texts: list[str]) -> None:
        rows = [{"text": text} | ({} if split == "unlabelled" else {"label": "a"}) for text in texts]
        (self.folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prepare(self, key: str) -> Prepared:
        def fill(aside: Path) -> dict[str, Any]:
            self.words.save(str(aside / TOKENIZER))
            return {"key": key, "labels": ["a", "b"]}

        commit(self.folder / "prepared", MANIFEST, fill)
        return Prepared.open(self.folder / "prepared")

    def pool(self, seed: int = 0, unlabelled: list[str] | None = None, **spec: float) -> Prepared:
        files = {split: str(self.folder / f"{split}.jsonl") for split in ("train", "validation", "unlabelled")}
        data = DataSpec.model_validate(files)
        if unlabelled:
            self.write("unlabelled", unlabelled)
        return make_pool(
            self.folder / "pool",
            self.prepared,
            PoolSpec.model_validate(spec),
            seed,
            tokenise.checked(data, "train")[0],
            tokenise.checked(data, "validation")[0],
            tokenise.checked(data, "unlabelled") if unlabelled else None,
        )

    def texts(self, pool: Prepared) -> list[str]:
        examples = pool.examples("train")
        return [
            self.words.decode(examples.ids[slice(*examples.offsets[row : row + 2])].tolist())
            for row in range(len(examples))
        ]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(tokenise, "write_shards", write_locally)
    return Shop(tmp_path)


def test_rows_of_the_pool_have_no_label_a_whole_frame_and_no_more_tokens_than_any_row(shop: Shop):
    examples = shop.pool(rows=60).examples("train")
    assert len(examples) == 60
    assert set(examples.labels) == {NO_TARGET}
    assert 4 < examples.lengths.max() <= MAX_LENGTH
    assert set(examples.ids[examples.offsets[:-1]]) == {SPECIAL.index("[CLS]")}
    assert set(examples.ids[examples.offsets[1:] - 1]) == {SPECIAL.index("[SEP]")}
    assert (examples.ids == SPECIAL.index("[MASK]")).any()
    assert not (examples.ids == SPECIAL.index("[UNK]")).any()


def test_the_manifest_tells_what_each_operation_made(shop: Shop):
    pool = shop.pool(rows=40, unlabelled=UNLABELLED, swap_words=0)
    made = pool.manifest["made_by"]
    assert made.keys() == {"unlabelled", "drop_words", "mask_words", "mix_rows"}
    assert made["unlabelled"] == 1
    assert sum(made.values()) == pool.manifest["rows"]["train"] == 41


def test_unlabelled_rows_come_as_they_are_once_and_not_where_they_are_training_or_validation_rows(shop: Shop):
    assert shop.texts(shop.pool(unlabelled=UNLABELLED)) == ["the order never came"]


def test_augmented_rows_are_made_of_training_and_unlabelled_rows_alone(shop: Shop):
    shop.write("validation", ["morning now"])
    made = shop.texts(shop.pool(rows=60, unlabelled=UNLABELLED, drop_words=0, mask_words=0, swap_words=0))
    assert any("came" in text.split() for text in made[1:])
    assert "morning now" not in made
    beginnings = {text.split()[0] for text in (*TRAIN, *UNLABELLED)}
    assert {text.split()[0] for text in made} <= beginnings


def test_nothing_is_made_anew_unless_spec_seed_unlabelled_or_prepared_rows_changed(shop: Shop):
    first = shop.pool(rows=10)
    written = (first.folder / MANIFEST).stat().st_mtime_ns
    assert shop.pool(rows=10).key == first.key
    assert (first.folder / MANIFEST).stat().st_mtime_ns == written
    keys = {
        first.key,
        shop.pool(rows=11).key,
        shop.pool(rows=10, changed=0.3).key,
        shop.pool(rows=10, seed=1).key,
        shop.pool(rows=10, unlabelled=UNLABELLED).key,
        shop.pool(rows=10, unlabelled=UNLABELLED[:1]).key,
    }
    shop.prepared = shop.prepare("other rows")
    assert len(keys | {shop.pool(rows=10).key}) == 7


def test_the_same_recipe_makes_the_same_pool(shop: Shop):
    first = shop.texts(shop.pool(rows=50))
    shop.pool(rows=1)
    assert shop.texts(shop.pool(rows=50)) == first


def test_a_pool_with_nothing_new_is_refused(shop: Shop):
    with pytest.raises(UsageError, match=r"^distillation\.pool: nothing new can be made of these rows, or "):
        shop.pool(unlabelled=VALIDATION)


def test_a_tokenizer_without_a_mask_is_refused_where_words_are_to_be_masked(shop: Shop):
    changed = json.loads(shop.words.to_str())
    changed["added_tokens"] = [token for token in changed["added_tokens"] if token["content"] != "[MASK]"]
    shop.words = Tokenizer.from_str(json.dumps(changed))
    shop.prepared = shop.prepare("rows")
    assert mask_token(shop.words) is None
    with pytest.raises(UsageError, match=r"^distillation\.pool\.mask_words: 1: .* no mask token .*; set it to 0$"):
        shop.pool(rows=5)
    assert shop.pool(rows=5, mask_words=0).manifest["rows"] == {"train": 5}


def test_a_cut_row_has_the_tokens_of_the_whole_one(shop: Shop):
    rows: list[Inputs] = [
        (TRAIN[0], None),
        (" ".join(TRAIN), None),
        (TRAIN[1], TRAIN[2]),
        (" ".join(TRAIN), " ".join(TRAIN)),
        (" ".join(TRAIN), "now"),
        ("   ", " ".join(TRAIN)),  # of which no token is left to end at
        (" ".join(TRAIN), "   "),
    ]
    cut = list(cut_to_length(rows, shop.words))
    assert cut[0] == rows[0] and cut[-2][0] == cut[-1][1] == ""
    for (text, pair), (whole, whole_pair) in zip(cut[1:], rows[1:], strict=True):
        assert len(text) + len(pair or "") < len(whole) + len(whole_pair or "")
        assert whole.startswith(text)
        assert (whole_pair or "").startswith(pair or "")
        assert shop.words.encode(text, pair).ids == shop.words.encode(whole, whole_pair).ids
