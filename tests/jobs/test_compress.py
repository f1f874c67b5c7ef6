from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from cluster.session import JobError
from jobs.compress import compress
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.measure.reference import load_reference
from jobs.models.reference import write_reference
from jobs.models.spec import StudentSpec
from jobs.models.student import encoder_student
from jobs.recipe import Recipe
from serving.runtime import load_bundle
from tests.tiny_models import CLASSES, encoder_classifier
from tests.tiny_workplace import examples, labelled, workplace

TEXTS = ["a", "b c", "c a b a", "a a a b c c b a b"]


def test_a_convolutional_student_is_pruned_exported_quantised_and_served(tmp_path: Path):
    words = Tokenizer(models.WordLevel({"a": 5, "b": 6, "c": 7}, "a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.save(str(tmp_path / TOKENIZER))
    learned = Prepared(tmp_path, {"labels": list("vwxyz"[:CLASSES]), "pairs": False, "max_length": 16})
    student = encoder_student(encoder_classifier(), StudentSpec(kind="conv", layers=2, hidden=16))
    write_reference(tmp_path / "student", student, learned, "tiny", {}, {})
    recipe = Recipe.model_validate(
        {"name": "tiny", "compression": [{"step": "prune", "sparsity": 0.05}, {"step": "export"}, {"step": "quantize"}]}
    )
    compress(recipe, tmp_path / "student", tmp_path / "bundle", {})
    expected_NC = load_reference(tmp_path / "student").scores(TEXTS)
    np.testing.assert_allclose(load_bundle(tmp_path / "bundle").scores(TEXTS), expected_NC, atol=0.02)
    assert expected_NC.std(axis=0).max() > 0.1


def test_a_step_that_ruins_the_model_fails_the_job_and_leaves_no_bundle(tmp_path: Path):
    student = encoder_classifier(layers=1)
    rows = labelled(examples(60), student)
    steps = [{"step": "prune", "sparsity": 0.99}, {"step": "export"}]
    recipe = workplace(tmp_path, student, rows, rows, compression=steps).recipe
    with pytest.raises(
        JobError, match=r"^compression\[0\]: 'prune' lowers validation accuracy from 1 to 0\.\d+ \(60 rows\)"
    ):
        compress(recipe, tmp_path / "student", tmp_path / "bundle", {}, judged=True)
    assert not (tmp_path / "bundle").exists()
