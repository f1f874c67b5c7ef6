"""What finetune refuses before any worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.loader import UsageError
from jobs.data.prepared import Prepared
from jobs.finetune import finetune
from jobs.recipe import Recipe


def test_a_given_teacher_bundle_is_not_written_over(tmp_path: Path):
    given = {"name": "x", "output": str(tmp_path), "teacher": {"bundle": str(tmp_path / "mine")}}
    recipe = Recipe.model_validate(given)
    with pytest.raises(UsageError, match=r"teacher\.bundle: .*mine: finetune would write over it"):
        finetune(recipe, Prepared(tmp_path, {"key": "k", "labels": ["a", "b"]}))
