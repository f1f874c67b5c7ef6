from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.loader import UsageError, load
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from jobs.data import audit
from jobs.data.preparation import prepare_student, summary
from jobs.data.prepared import TOKENIZER, Prepared, Readings
from jobs.layout import prepared_folder
from jobs.models.reference import read_tokenizer
from tests.tiny.shop import CHOSEN, ROWS_PER_INTENT, write_locally
from tests.tiny.ways import prepare

LEAKED = 7
CHINESE = "快递到现在还没有送到"


class Shop:
    """The rows of the shop, of which a test puts some into another split, or writes some in another script."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.folder, self.recipe_file = folder, rows / "recipe.yaml"
        self.rows: dict[str, list[dict[str, str]]] = {
            split: [json.loads(line) for line in (rows / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            for split in ROWS_PER_INTENT
        }

    def recipe(self, *overrides: str, test: bool = True) -> Recipe:
        for split, rows in self.rows.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (self.folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        if not test:
            (self.folder / "test.jsonl").unlink()
        files = [f"data.{split}={self.folder / f'{split}.jsonl'}" for split in self.rows]
        return load(Recipe, self.recipe_file, [*files, *overrides]).on_driver(self.folder / "home", self.folder)

    def leak(self, source: str, target: str, count: int = LEAKED) -> None:
        """Put rows of `source` at the end of `target`, in capitals."""
        self.rows[target] += [row | {"text": row["text"].upper() + "!"} for row in self.rows[source][:count]]


@pytest.fixture
def shop(tmp_path: Path, shop_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    return Shop(tmp_path, shop_folder)


def texts_of(prepared: Prepared, split: Any) -> list[str]:
    """What a teacher reads of each row."""
    examples, tokenizer = prepared.examples(split), read_tokenizer(prepared.folder / TOKENIZER)
    places = zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    return [tokenizer.decode(examples.ids[start:end].tolist()) for start, end in places]


def test_leaks_are_told_with_counts_and_lines_and_without_texts(shop: Shop, caplog: pytest.LogCaptureFixture):
    shop.leak("validation", "train")
    first = shop.rows["train"][0]
    shop.rows["train"].append(first | {"label": next(label for label in CHOSEN if label != first["label"])})
    prepared = prepare(shop.recipe(test=False))  # of which nothing is read
    metrics = summary(prepared)
    assert (metrics["leaked_rows"], metrics["contradicting_rows"]) == (LEAKED, 2)
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert (
        f"{LEAKED} of 80 rows of data.validation have the text of a row of data.train (0 letter for letter)" in said[1]
    )
    assert said[1].endswith("lines 1, 2, 3, 4, 5, ...")
    assert said[0].endswith("that has another label in data.train: lines 1, 308")
    assert not any(row["text"].lower() in caplog.text.lower() for rows in shop.rows.values() for row in rows)
    record = audit.record_of(prepared)
    assert record["splits"]["train"] == {
        "rows": 308,
        "repeated": 1,
        "contradicting": 2,
        "unknown_share": prepared.readings("train").unknown_share,
        "cut_share": prepared.readings("train").cut_share,
    }
    assert record["words"] == [said[1], said[0]]


def test_a_teacher_learns_no_row_that_it_is_asked_again_where_leaks_are_dropped(shop: Shop):
    clean = prepare(shop.recipe("output=clean"))
    expected = {split: texts_of(clean, split) for split in ("train", "validation")}
    shop.leak("validation", "train")
    shop.leak("test", "train")
    shop.leak("test", "validation", 3)
    dropped = prepare(shop.recipe("output=dropped", "data.on_leak=drop"))
    assert {split: texts_of(dropped, split) for split in expected} == expected
    assert dropped.manifest["left_out"] == {"train": 2 * LEAKED, "validation": 3}
    assert dropped.key == clean.key  # the same rows train nothing anew, whatever was dropped
    assert summary(dropped)["leaked_rows"] == 0
    assert f"left out by data.on_leak=drop: {2 * LEAKED} rows of data.train" in audit.record_of(dropped)["words"]


def test_of_another_test_file_rows_depend_where_some_are_dropped_for_it_alone(shop: Shop):
    before = {how: prepare(shop.recipe(f"output={how}", f"data.on_leak={how}")) for how in ("warn", "drop", "refuse")}
    rows = len(before["drop"].examples("train"))
    shop.rows["test"] += [row | {"text": row["text"].lower()} for row in shop.rows["train"][:LEAKED]]
    warned, dropped = (prepare(shop.recipe(f"output={how}", f"data.on_leak={how}")) for how in ("warn", "drop"))
    assert warned.key == before["warn"].key
    assert dropped.key != before["drop"].key
    assert len(dropped.examples("train")) == rows - LEAKED
    with pytest.raises(UsageError) as refused:
        prepare(shop.recipe("output=refuse", "data.on_leak=refuse"))
    assert str(refused.value).startswith(
        f"data.on_leak: refuse: {LEAKED} of 87 rows of data.test have the text of a row of data.train ("
    )
    assert str(refused.value).endswith("lines 81, 82, 83, 84, 85, ...; remove them, or use drop")


def test_what_is_dropped_later_is_told_of_rows_that_are_found(shop: Shop):
    first = prepare(shop.recipe("data.on_leak=drop"))
    shop.leak("validation", "train")
    again = prepare(shop.recipe("data.on_leak=drop"))
    assert (again.key, again.manifest["left_out"]["train"]) == (first.key, LEAKED)
    assert Prepared.open(again.folder).manifest == again.manifest


def test_unlabelled_rows_may_repeat_training_rows_and_no_others(shop: Shop):
    own = [{"text": "a text of its own"}, *({"text": row["text"]} for row in shop.rows["train"][:4])]
    held_out = [{"text": row["text"]} for row in shop.rows["validation"][:3]]
    file = shop.folder / "unlabelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in own + held_out), encoding="utf-8")
    told = prepare(shop.recipe(f"data.unlabelled={file}"))
    assert summary(told)["leaked_rows"] == 3
    assert set(told.hashes()) == {"train", "validation", "unlabelled"}
    dropped = prepare(shop.recipe(f"data.unlabelled={file}", "data.on_leak=drop"))
    assert summary(dropped)["leaked_rows"] == 0
    assert dropped.pool is not None and dropped.pool.manifest["left_out"] == {"unlabelled": 3}
    assert prepare(shop.recipe(f"data.unlabelled={file}", "data.on_leak=drop")).pool == dropped.pool


def test_before_a_search_it_is_said_which_test_rows_were_learned(shop: Shop, caplog: pytest.LogCaptureFixture):
    shop.leak("train", "test")
    recipe = shop.recipe()
    prepared = prepare(recipe)
    assert "data.test" not in caplog.text
    audit.look_at_test(recipe.data, prepared)
    assert f"{LEAKED} of 87 rows of data.test have the text of a row of data.train" in caplog.text


def with_chinese(shop: Shop, every: int) -> Recipe:
    for row in shop.rows["train"][::every]:
        row["text"] = CHINESE
    return shop.recipe()


def test_a_teacher_that_cannot_read_the_rows_is_refused_in_one_line(shop: Shop):
    recipe = with_chinese(shop, every=1)
    with pytest.raises(UsageError) as refused:
        prepare(recipe)
    said = str(refused.value)
    assert said.startswith(
        f"teacher.model: {recipe.teacher.model}: its tokenizer does not know 100.0% of the tokens of "
    )
    assert "more than data.max_unknown=0.333" in said and "multilingual encoder" in said and "\n" not in said
    assert CHINESE not in said
    assert not prepared_folder(recipe).exists()  # nothing was tokenised
    told = prepare(shop.recipe("data.max_unknown=1"))
    assert summary(told)["unknown_share"] > 0.333


def test_rows_that_are_there_are_asked_for_the_limits_of_today(shop: Shop):
    recipe = shop.recipe()
    prepared = prepare(recipe)
    changed = {audit.CHANGED: {"share": 0.2, "words": "1 of 5 (20.0%): capital letters become small ones (1)"}}
    told = replace(prepared, manifest=prepared.manifest | changed)
    audit.check_readings(recipe.data, told, "teacher.model: m")
    lower = recipe.data.model_copy(update={"max_changed": 0.1})
    with pytest.raises(UsageError, match=r"^teacher\.model: m: .* as they are, 1 of 5 .*, and data\.max_changed=0\.1;"):
        audit.check_readings(lower, told, "teacher.model: m")
    audit.check_readings(lower, prepared, "teacher.model: m")


def test_a_share_of_unknown_tokens_is_told_and_a_small_one_is_not(shop: Shop, caplog: pytest.LogCaptureFixture):
    few = prepare(with_chinese(shop, every=60))
    assert 0 < few.readings("train").unknown_share < audit.MUCH_UNKNOWN
    assert "unknown" not in caplog.text
    some = prepare(with_chinese(shop, every=4))
    share = some.readings("train").unknown_share
    assert audit.MUCH_UNKNOWN < share < 0.333
    assert f"train.jsonl: {100 * share:.1f} % of the tokens are unknown to teacher.model: " in caplog.text


def test_a_student_that_cannot_read_the_rows_is_refused_too(shop: Shop, tmp_path: Path, tiny_teacher: Path):
    import shutil

    shutil.copytree(tiny_teacher, tmp_path / "deaf")
    file = tmp_path / "deaf" / TOKENIZER
    told = json.loads(file.read_text(encoding="utf-8"))
    special = [each["content"] for each in told["added_tokens"]]
    told["model"]["vocab"] = {name: number for name, number in told["model"]["vocab"].items() if name in special}
    file.write_text(json.dumps(told), encoding="utf-8")
    recipe = shop.recipe()
    other = {"student": {"kind": "pretrained", "model": str(tmp_path / "deaf")}}
    asked = Recipe.model_validate(recipe.model_dump() | other)
    with pytest.raises(UsageError, match=r"^student\.model: .*deaf: its tokenizer does not know 100\.0% of the tokens"):
        prepare_student(asked, prepare(recipe))


def test_cut_texts_are_counted(shop: Shop):
    prepared = prepare(shop.recipe("data.max_length=10"))
    tokenizer = read_tokenizer(prepared.folder / TOKENIZER)
    longer = sum(
        len(tokenizer.encode(row["text"])) > 10 for split in ("train", "validation") for row in shop.rows[split]
    )
    assert summary(prepared)["cut_share"] == longer / 380 > 0


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (Readings(rows=0, tokens=0, unknown=0, cut=0), []),
        (Readings(rows=8, tokens=100, unknown=5, cut=0), []),
        (
            Readings(rows=8, tokens=100, unknown=6, cut=0),
            ["a.csv: 6.0 % of the tokens are unknown to m; a model that was trained in their language knows them"],
        ),
        (
            Readings(rows=8, tokens=100, unknown=0, cut=1),
            ["a.csv: 1 of 8 texts are longer than 16 tokens and cut"],
        ),
        (
            Readings(rows=8, tokens=100, unknown=0, cut=0, unread=2),
            ["a.csv: of 2 of 8 texts nothing is known to m; all are answered alike"],
        ),
    ],
    ids=["no rows", "as many as are let pass", "one more", "one cut", "two without tokens"],
)
def test_shares_are_told_in_percent_from_what_is_much_on(
    caplog: pytest.LogCaptureFixture, read: Readings, said: list[str]
):
    caplog.set_level(logging.INFO)
    audit.warn_of_readings(read, "a.csv", "m", 16)
    assert [each.getMessage() for each in caplog.records] == said


@pytest.mark.parametrize("split", ["train", "validation"])
def test_as_much_may_be_unknown_as_the_recipe_says_and_no_more(split: str):
    data = DataSpec(max_unknown=0.25)
    for unknown in (25, 26):
        readings = {"train": [9, 100, 0, 0], "validation": [9, 100, 0, 0], split: [9, 100, unknown, 0]}
        prepared = Prepared(Path("prepared"), {"readings": readings, "max_length": 16})
        if unknown == 25:
            audit.check_readings(data, prepared, "m")
        else:
            with pytest.raises(UsageError, match=r"does not know 26\.0% of the tokens"):
                audit.check_readings(data, prepared, "m")
