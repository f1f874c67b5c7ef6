from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema.recipe import Recipe
from jobs.measure.early import compare, said
from jobs.tasks.classify import baselines


@pytest.fixture(autouse=True)
def locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone else may be measuring on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


class Told:
    """An MLflow run that keeps what it is told."""

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}
        self.metrics = SimpleNamespace(log=self.logged.update)


def recipe(folder: Path, **fields: Any) -> Recipe:
    """One word tells the label."""
    lines = [{"text": f"{word} {n % 5}", "label": word} for n in range(40) for word in ("refund", "order")]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    data = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    return Recipe.model_validate({"name": "tiny", "output": str(folder / "out"), "data": data, **fields})


def test_a_baseline_that_is_better_than_the_teacher_is_said_before_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    run: Any = Told()
    found = compare(recipe(tmp_path), tmp_path / "no teacher", 0.5, run)
    assert found == {"tfidf_svm": {"accuracy": 1.0, "accuracy_low": 1.0, "accuracy_high": 1.0}}
    assert run.logged == {f"baseline_tfidf_{name}": 1.0 for name in found["tfidf_svm"]}
    (warned,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warned == (
        "The baseline tfidf_svm is better than the teacher, of which students are to be made. On the validation rows, "
        "accuracy with its 95 % interval: tfidf_svm 1.0000 (1.0000 to 1.0000); the teacher 0.5000."
    )
    monkeypatch.setattr(baselines, "make_tfidf", lambda _: pytest.fail("made again"))
    assert compare(recipe(tmp_path), tmp_path / "no teacher", 0.5, run) == found


def test_one_whose_interval_reaches_down_to_the_teacher_is_only_named():
    words, ahead = said({"tfidf_svm": {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}}, 0.85, "accuracy")
    assert not ahead and words.startswith("On the validation rows") and words.endswith("; the teacher 0.8500.")


def test_nothing_is_made_where_no_baseline_is_asked_for(tmp_path: Path):
    run: Any = Told()
    assert compare(recipe(tmp_path, evaluation={"baselines": []}), tmp_path / "no teacher", 0.5, run) == {}
    assert not run.logged and not (tmp_path / "out").exists()
