from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster import session, tracking
from cluster.record import Cluster
from configs.loader import UsageError, load, merge
from configs.schema.recipe import Recipe
from jobs import teach
from jobs.data.preparation import prepare_student, summary
from jobs.data.prepared import TOKENIZER, Prepared, PreparedSplit
from jobs.layout import pool_folder
from jobs.models.reference import write_reference
from jobs.prepare import run
from jobs.tasks.classify.rows import known_to
from jobs.training.fit import student_key, teacher_key
from tests.tiny.models import encoder_classifier
from tests.tiny.shop import CHOSEN, ROWS_PER_INTENT, write_encoder, write_locally
from tests.tiny.ways import prepare

SPLITS: tuple[PreparedSplit, ...] = ("train", "validation")


class Shop:
    """The rows of the shop, which a test may change; the test file is not there."""

    def __init__(self, folder: Path, rows: Path) -> None:
        self.rows = folder / "rows"
        shutil.copytree(rows, self.rows)
        (self.rows / "test.jsonl").unlink()
        data = [f"data.{split}={self.rows / f'{split}.jsonl'}" for split in (*SPLITS, "test")]
        overrides = [*data, "data.max_length=10"]
        self.recipe = load(Recipe, self.rows / "recipe.yaml", overrides).on_driver(folder / "home", self.rows)

    def read(self, split: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.rows / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def shop(on_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, shop_folder: Path) -> Shop:
    session.connect()
    return Shop(tmp_path_factory.mktemp("prepare"), shop_folder)


@pytest.fixture(scope="module")
def prepared(shop: Shop) -> Prepared:
    """Made without the test file: it is not opened."""
    return prepare(shop.recipe)


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_there_in_order_with_its_tokens_and_label(shop: Shop, prepared: Prepared, split: PreparedSplit):
    rows, examples = shop.read(split), prepared.examples(split)
    tokenizer = Tokenizer.from_file(str(prepared.folder / TOKENIZER))
    expected = [tokenizer.encode(row["text"]).ids for row in rows]
    assert max(map(len, expected)) == 10
    assert [examples.ids[start:end].tolist() for start, end in pairwise(examples.offsets.tolist())] == expected
    assert examples.lengths.tolist() == [len(ids) for ids in expected]
    assert [prepared.labels[number] for number in examples.labels] == [row["label"] for row in rows]
    assert not examples.types.any()


def test_the_manifest_tells_classes_and_rows(prepared: Prepared):
    assert prepared.labels == sorted(CHOSEN)
    rows = {split: len(CHOSEN) * ROWS_PER_INTENT[split] for split in SPLITS}
    assert prepared.manifest["rows"] == rows
    told = summary(prepared)
    assert {split: told[f"{split}_rows"] for split in SPLITS} == rows
    assert told["classes"] == len(CHOSEN)
    assert 4 < told["train_mean_tokens"] == told["train_tokens"] / told["train_rows"] <= 10


def test_unchanged_rows_are_found_and_a_changed_row_makes_them_anew(shop: Shop, prepared: Prepared):
    before = list(times(prepared.folder))
    assert prepare(shop.recipe).key == prepared.key
    assert list(times(prepared.folder)) == before
    rows = shop.read("train")
    rows[7]["text"] = rows[8]["text"]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (shop.rows / "train.jsonl").write_text(text, encoding="utf-8")
    again = prepare(shop.recipe)
    assert again.key != prepared.key
    assert again.folder == prepared.folder
    examples = again.examples("train")
    changed, copied = (examples.ids[slice(*examples.offsets[row : row + 2])].tolist() for row in (7, 8))
    assert changed == copied


def test_a_pool_changes_nothing_of_the_rows_that_a_teacher_learns(
    shop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    plain = load(Recipe, shop_folder / "recipe.yaml", ["teacher.epochs=1"]).on_driver(tmp_path, shop_folder)
    asked = [f"data.unlabelled={shop_folder / 'test.jsonl'}", "distillation.pool.rows=20"]
    pooled = load(Recipe, shop_folder / "recipe.yaml", ["teacher.epochs=1", *asked]).on_driver(tmp_path, shop_folder)
    without, beside = prepare(plain), prepare(pooled)
    assert without.pool is None
    assert (beside.key, teacher_key(pooled, beside)) == (without.key, teacher_key(plain, without))
    assert beside.pool is not None
    rows = len(CHOSEN) * ROWS_PER_INTENT["test"] + 20
    assert summary(beside) == summary(without) | {"pool_rows": rows}
    assert len(beside.pool.examples("train")) == rows
    monkeypatch.setattr("jobs.training.fit.taught_by", lambda recipe: [])
    assert student_key(plain, beside) != student_key(plain, without)
    assert Prepared.open(without.folder, pool_folder(pooled)) == beside


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer cuts words into smaller pieces."""
    return write_encoder(tmp_path_factory.mktemp("foreign"), layers=1, pieces=300)


def with_student(recipe: Recipe, model: Path) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | {"student": {"kind": "pretrained", "model": str(model)}})


def test_a_student_of_the_same_tokenizer_reads_the_same_rows(shop: Shop, prepared: Prepared, tiny_teacher: Path):
    assert prepare_student(shop.recipe, prepared) is prepared
    assert prepare_student(with_student(shop.recipe, tiny_teacher), prepared) is prepared


def test_a_student_of_another_tokenizer_reads_the_same_texts_row_for_row(shop: Shop, foreign: Path):
    prepared = prepare(shop.recipe)
    own = prepare_student(with_student(shop.recipe, foreign), prepared)
    assert own.folder.name == "prepared_student"
    assert own.key != prepared.key
    tokenizer = Tokenizer.from_file(str(own.folder / TOKENIZER))
    for split in SPLITS:
        examples, expected = own.examples(split), [tokenizer.encode(row["text"]).ids for row in shop.read(split)]
        assert [examples.ids[start:end].tolist() for start, end in pairwise(examples.offsets.tolist())] == expected
        assert examples.labels.tolist() == prepared.examples(split).labels.tolist()
    before = list(times(own.folder))
    assert prepare_student(with_student(shop.recipe, foreign), prepared).key == own.key
    assert list(times(own.folder)) == before


@pytest.mark.parametrize(
    ("distillation", "said"),
    [
        ({"weights": {"hidden": 1}}, r"distillation\.weights\.hidden compares them token by token; set it to 0"),
        ({"pool": {"rows": 5}}, r"in whose tokens the pool is; leave out"),
    ],
)
def test_what_needs_the_teachers_tokens_is_refused_where_they_differ(
    shop: Shop, prepared: Prepared, foreign: Path, distillation: dict[str, Any], said: str
):
    asked = merge(with_student(shop.recipe, foreign).model_dump(), {"distillation": distillation})
    with pytest.raises(UsageError, match=said):
        prepare_student(Recipe.model_validate(asked), prepared)


def test_a_given_teacher_brings_its_tokenizer_and_the_order_of_its_classes(tmp_path: Path):
    teacher = write_teacher(tmp_path, ["b", "c", "a", "d", "e"])
    labels, tokenizer = known_to(teacher, ["a", "b"])
    assert labels == ["b", "c", "a", "d", "e"]
    assert tokenizer.encode("y x").ids == [1, 0]
    assert tokenizer.truncation is None


def test_a_class_that_a_given_teacher_never_learned_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"teacher\.bundle: .*: never learned the label 'z'"):
        known_to(write_teacher(tmp_path, ["b", "c", "a", "d", "e"]), ["a", "z"])


def test_a_teacher_that_is_not_there_is_named_by_its_field_before_rows_are_read():
    asked = Recipe.model_validate({"name": "x", "teacher": {"bundle": "/typo"}, "data": {"train": "nowhere.csv"}})
    with pytest.raises(UsageError, match=r"^teacher\.bundle: /typo: no such folder$"):
        prepare(asked)


def test_each_verb_says_in_which_output_it_worked(shop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = SimpleNamespace(id="run", tag=lambda **_: None, metrics=SimpleNamespace(log=lambda _: None))
    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext(told))
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    monkeypatch.setattr("jobs.teach.made", lambda *_: tmp_path / "teacher_outputs")
    recipe = load(Recipe, shop_folder / "recipe.yaml", []).on_driver(tmp_path, shop_folder)
    assert run(recipe).output == teach.run(recipe).output == recipe.output


def write_teacher(folder: Path, labels: list[str]) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "y": 1}, "x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / TOKENIZER))
    learned = Prepared(folder, {"key": "k", "labels": labels, "pairs": False, "max_length": 4, "task": "classify"})
    write_reference(folder / "teacher", encoder_classifier(), learned, "tiny", {}, {})
    return folder / "teacher"


def times(folder: Path) -> Iterator[tuple[Path, int]]:
    return ((path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")))


@pytest.fixture(scope="module")
def completions(shop: Shop) -> Prepared:
    file = shop.rows / "completions.yaml"
    return prepare(load(Recipe, file, ["output=completions"]).on_driver(shop.rows.parent / "home", shop.rows))


def test_completions_are_tokenised_by_a_tokenizer_of_their_own(shop: Shop, completions: Prepared):
    tokenizer = Tokenizer.from_file(str(completions.folder / TOKENIZER))
    examples, rows = completions.examples("validation"), shop.read("validation")
    for number in (0, len(rows) - 1):
        ids = examples.ids[examples.offsets[number] : examples.offsets[number + 1]].tolist()
        assert tokenizer.decode(ids[:-1]) == f"{rows[number]['label']}\n{rows[number]['text']}"
        assert ids[-1] == completions.manifest["end"]
    assert (completions.labels, completions.manifest["task"]) == ([], "generate")
    assert "classes" not in summary(completions)


def test_a_prompt_that_leaves_no_room_is_refused_by_its_row(shop: Shop):
    overrides = ["output=short", "data.text=text", "data.label=label", "data.max_length=12"]
    recipe = load(Recipe, shop.rows / "completions.yaml", overrides)
    with pytest.raises(UsageError, match=r"data.max_length: 12: the prompt of row \d+ of data.train alone has \d+ tok"):
        prepare(recipe.on_driver(shop.rows.parent / "home", shop.rows))


def test_a_decoder_of_other_tokens_than_its_teachers_is_refused(shop: Shop, completions: Prepared, foreign: Path):
    recipe = with_student(load(Recipe, shop.rows / "completions.yaml", []), foreign)
    with pytest.raises(UsageError, match=r"^student\.model: .*: has another tokenizer than the teacher, whose stored"):
        prepare_student(recipe, completions)
