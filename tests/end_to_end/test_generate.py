"""Task generate by its commands: a decoder of new weights, its student, and what they write of unseen rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.bundle import read_bundle
from tests.processes import Done, submit

pytestmark = pytest.mark.parallel


@pytest.fixture(scope="module")
def jobs(environment: dict[str, str], shop_folder: Path) -> dict[str, Done]:
    recipe = str(shop_folder / "completions.yaml")
    ends: dict[str, Done] = {}
    for verb in ("finetune", "distill", "compress", "evaluate"):
        ends[verb] = submit(environment, f"jobs.{verb}", "--config", recipe, "output=written")
        assert ends[verb].code == 0, ends[verb].output[-4000:]
    return ends


@pytest.mark.parametrize("verb", ["finetune", "distill"])
def test_training_gives_a_bundle_for_the_task(jobs: dict[str, Done], verb: str):
    result = jobs[verb].result
    assert result is not None
    bundle = read_bundle(Path(result["bundle"]))
    assert (bundle.task, bundle.labels, bundle.runtime) == ("generate", [], "torch")
    assert result["metrics"]["validation_perplexity"] > 1


def test_a_student_is_exported_to_ctranslate2_and_measured_on_the_validation_rows(jobs: dict[str, Done]):
    result = jobs["compress"].result
    assert result is not None
    bundle = read_bundle(Path(result["bundle"]))
    assert (bundle.task, bundle.runtime) == ("generate", "ctranslate2")
    assert 0 <= result["metrics"]["validation_bleu"] <= 100
    assert bundle.provenance["facts"]["forms"]["ctranslate2 f32"]["float"]["same"] >= 0.95


def test_student_and_teacher_are_measured_beside_the_nearest_row(jobs: dict[str, Done]):
    result = jobs["evaluate"].result
    assert result is not None
    metrics = result["metrics"]
    for contender in ("nearest_row", "teacher", "student", "winner"):
        assert 0 <= metrics[f"{contender}_bleu"] <= 100
        assert 0 <= metrics[f"{contender}_rouge_l"] <= 100
        assert metrics[f"{contender}_mix_p50_ms"] > 0
    assert metrics["winner_bytes"] < metrics["teacher_bytes"]
    assert metrics["speedup_mix"] > 0 and metrics["winner_rows_per_second"] > 0
