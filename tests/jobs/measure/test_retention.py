from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.data.prepared import Prepared
from jobs.data.source import Row, Sample, sample
from jobs.measure.bootstrap import resampled
from jobs.measure.retention import Teacher, kept, taught
from jobs.tasks.classify import metrics

ROWS = 400
LABELS = ["track", "refund", "cancel"]
NOBODY = Sample(ROWS, "0")


def drawn(right_N: np.ndarray) -> tuple[float, list[float]]:
    """Accuracy, and that of resampled rows."""
    statistics = np.stack([right_N, np.ones(len(right_N))], axis=1).astype(np.int64)
    return float(right_N.mean()), resampled(statistics, metrics.accuracy)


def test_the_error_of_retention_is_that_of_paired_rows():
    """Both err on their own rows: the share moves as the mean of s - R t over the rows does (the delta method)."""
    chance = np.random.default_rng(0)
    theirs_N = chance.random(ROWS) < 0.9
    ours_N = np.where(chance.random(ROWS) < 0.06, ~theirs_N, theirs_N)
    teacher, (ours, values) = Teacher(*drawn(theirs_N), NOBODY), drawn(ours_N)
    found = kept(ours, values, teacher)
    share = ours / teacher.metric
    exact = (ours_N - share * theirs_N).std(ddof=1) / np.sqrt(ROWS) / teacher.metric
    assert (found["metric"], found["retention"]) == (ours, share)
    assert found["retention_se"] == pytest.approx(exact, rel=0.08)
    apart = np.sqrt(2 * 0.9 * 0.1 / ROWS)
    assert found["retention_se"] < 0.75 * apart  # of two models that know nothing of one another


def test_a_student_that_answers_as_its_teacher_keeps_all_of_it_whatever_the_rows():
    teacher = Teacher(*drawn(np.arange(ROWS) % 9 > 0), NOBODY)
    assert kept(teacher.metric, teacher.resampled, teacher)["retention_se"] == 0
    assert kept(teacher.metric, teacher.resampled, teacher)["retention"] == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([], []), ([0.5], [1.0]), ([0.5, 0.9, 0.1], [0.0, 1.0, 0.0])],
    ids=["no", "one", "one of three"],
)
def test_draws_too_few_to_differ_have_no_error(ours: list[float], theirs: list[float]):
    """Where the teacher is right on no row of a draw, that draw says nothing."""
    assert kept(0.6, ours, Teacher(0.8, theirs, NOBODY)) == {"metric": 0.6, "retention": 0.6 / 0.8, "retention_se": 0}


def test_two_draws_have_an_error():
    found = kept(0.6, [0.5, 0.9, 0.7], Teacher(0.8, [1.0, 1.0, 0.0], NOBODY))
    assert found["retention_se"] == pytest.approx(0.4 / np.sqrt(2))


@pytest.mark.parametrize("name", TASKS["classify"].metrics)
def test_a_teacher_is_what_it_said_of_the_prepared_rows(monkeypatch: pytest.MonkeyPatch, name: str):
    chance = np.random.default_rng(1)
    labels_N = chance.integers(3, size=ROWS)
    logits_NC = chance.normal(size=(ROWS, 3)) + 1.5 * np.eye(3)[labels_N]
    rows = [Row(f"text {number}", None, LABELS[label]) for number, label in enumerate(labels_N)]
    known = sample(rows)
    manifest = {"labels": LABELS, "rows": {"validation": ROWS}, "fingerprints": {"validation": known.fingerprint}}
    monkeypatch.setattr("jobs.tasks.classify.teaching.read_logits", lambda *_: logits_NC)
    recipe = Recipe.model_validate({"name": "x", "budget": {"metric": name}})
    prepared = Prepared(Path("prepared"), manifest)
    found = taught(recipe, prepared, Path("outputs"), rows)
    said = [LABELS[number] for number in logits_NC.argmax(1)]
    assert found.metric == metrics.score(said, [Row("", None, LABELS[number]) for number in labels_N])[name]
    assert np.mean(found.resampled) == pytest.approx(found.metric, abs=0.005)
    assert found.sample == known
    with pytest.raises(JobError, match=r"^data\.validation: .*changed since its rows were prepared"):
        taught(recipe, prepared, Path("outputs"), rows[1:])
