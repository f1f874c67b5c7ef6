from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.folder import commit
from configs.schema.recipe import Recipe
from jobs.data import leaks
from jobs.data.leaks import HASHES
from jobs.data.prepared import MANIFEST
from jobs.data.source import rows
from jobs.measure.unseen import audit_test_rows
from serving.bundle import Bundle
from tests.tiny.bundles import write_tiny_bundle

LEARNED = {"train": [("Where is my order?", "track"), ("refund", "refund")], "validation": [("cancel", "cancel")]}
TEST = [("where is my order", "cancel"), ("REFUND", "refund"), ("cancel", "cancel"), ("please now", "track")]
UNREAD = [("快递 refund", "refund"), ("now " * 20, "track"), ("now", "track"), ("NOW", "cancel")]


def write(file: Path, some: list[tuple[str, str]]) -> str:
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in some))
    return str(file)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """With the hashes of what was learned in its output, as `jobs.prepare` leaves them."""
    data: dict[str, Any] = {split: write(tmp_path / f"{split}.jsonl", some) for split, some in LEARNED.items()}
    data["test"] = write(tmp_path / "test.jsonl", TEST + UNREAD)
    made = Recipe.model_validate({"name": "x", "data": data, "output": str(tmp_path / "out")})
    seen: dict[Any, Any] = {}
    for split in LEARNED:
        list(rows(made.data, split, seen))  # type: ignore[arg-type]

    def fill(aside: Path) -> dict[str, Any]:
        leaks.write(aside / HASHES, seen)
        return {"key": "learned"}

    commit(tmp_path / "out" / "prepared", MANIFEST, fill)
    return made


def bundle(folder: Path, **fields: Any) -> tuple[Path, Bundle]:
    return folder / "bundle", write_tiny_bundle(folder / "bundle", **fields)


def audited(recipe: Recipe, folder: Path, description: Bundle) -> tuple[dict[str, Any], dict[str, float]]:
    seen: dict[Any, Any] = {}
    return audit_test_rows(recipe, folder, description, rows(recipe.data, "test", seen), seen)


def test_test_rows_that_were_learned_and_what_cannot_be_read_of_them_is_counted_and_said(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    record, metrics = audited(recipe, *bundle(tmp_path))
    tokens = 4 + 1 + 1 + 2 + 2 + 10 + 1 + 1  # 12 at most, two of them around the text
    unknown = ["REFUND", "快递", "NOW"]  # the tokenizer has small letters alone
    assert metrics == {
        "test_unknown_share": len(unknown) / tokens,
        "test_cut_share": 1 / 8,
        "test_leaked_rows": 3,
        "test_contradicting_rows": 1 + 2,  # one is 'track' in training, two of the test rows contradict one another
    }
    assert record["splits"]["test"]["rows"] == 8
    assert record["words"][0].startswith("2 of 8 rows of data.test have the text of a row of data.train (0 letter for")
    assert all(words in caplog.text for words in record["words"])
    assert f"{100 * 3 / tokens:.1f} % of the tokens are unknown to the tokenizer of" in caplog.text
    assert not any(text in caplog.text for text in ("where is", "REFUND", "cancel", "please", "快递"))


def test_rows_of_another_output_are_not_what_a_given_bundle_learned(recipe: Recipe, tmp_path: Path):
    given = recipe.model_copy(update={"bundle": str(tmp_path / "bundle")})
    metrics = [
        audited(given, *bundle(tmp_path, provenance=provenance))[1]["test_leaked_rows"]
        for provenance in (
            {"data": "other rows"},
            {"data": "learned"},
            {"second": {"provenance": {"data": "learned"}}},
        )
    ]
    assert metrics == [0, 3, 3]
