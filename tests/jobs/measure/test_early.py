from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.measure.early import compare, said
from jobs.tasks.classify import baselines

PREPARED = Prepared(Path("prepared"), {"attributes": True})


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
    found = compare(recipe(tmp_path), PREPARED, tmp_path / "no teacher", 0.5, run)
    assert found == {"tfidf_svm": {"accuracy": 1.0, "accuracy_low": 1.0, "accuracy_high": 1.0}}
    assert run.logged == {f"baseline_tfidf_{name}": 1.0 for name in found["tfidf_svm"]}
    (warned,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warned == (
        "The baseline tfidf_svm is better than the teacher, of which students are to be made. On the validation rows, "
        "accuracy with its 95 % interval: tfidf_svm 1.0000 (1.0000 to 1.0000); the teacher 0.5000."
    )
    monkeypatch.setattr(baselines, "make_tfidf", lambda _: pytest.fail("made again"))
    assert compare(recipe(tmp_path), PREPARED, tmp_path / "no teacher", 0.5, run) == found


def test_one_whose_interval_reaches_down_to_the_teacher_is_only_named():
    words, ahead = said({"tfidf_svm": {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}}, 0.85, "accuracy")
    assert not ahead and words.startswith("On the validation rows") and words.endswith("; the teacher 0.8500.")


def test_nothing_is_made_where_no_baseline_is_asked_for(tmp_path: Path):
    run: Any = Told()
    assert compare(recipe(tmp_path, evaluation={"baselines": []}), PREPARED, tmp_path / "no teacher", 0.5, run) == {}
    assert not run.logged and not (tmp_path / "out").exists()


def test_baselines_that_are_no_bundles_are_fitted_and_held_against_the_teacher_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    lines = [
        {"text": {"name": name, "size": n}, "label": f"{name} is {n} wide, as all are"} for n in "12" for name in "ab"
    ]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    data = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    told = Recipe.model_validate(
        {"name": "tiny", "task": "generate", "output": str(tmp_path / "out"), "data": data, "student": {"layers": 1}}
    )
    run: Any = Told()
    found = compare(told, PREPARED, tmp_path / "no teacher", 50.0, run)
    assert list(found) == ["nearest_row", "template"]
    assert set(found["template"]) == {"bleu", "bleu_low", "bleu_high"}
    assert found["template"]["bleu_low"] == pytest.approx(100)
    assert run.logged["baseline_template_bleu_low"] == found["template"]["bleu_low"]
    assert "is better than the teacher" in caplog.text
    without = Prepared(Path("prepared"), {"attributes": False})
    assert set(compare(told, without, tmp_path / "no teacher", None, run)) == {"nearest_row"}
