from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.session import JobError
from configs.schema.recipe import Recipe
from jobs.compression.step_context import StepContext
from jobs.data.prepared import WORDING, Prepared
from serving.checks import Wording


def test_checks_are_of_what_the_rows_taught_and_ask_for_rows_that_did(tmp_path: Path):
    tree = {
        "name": "x",
        "task": "generate",
        "student": {"layers": 1},
        "checks": {"enabled": True, "blocked": ["cheap"]},
    }
    context: Any = SimpleNamespace(recipe=Recipe.model_validate(tree), prepared=Prepared(tmp_path, {}))
    checks: Any = vars(StepContext)["checks"].func
    with pytest.raises(JobError, match=rf"^checks\.enabled: true: .*{WORDING}: no such file; run jobs\.prepare again$"):
        checks(context)
    (tmp_path / WORDING).write_text(Wording(min_words=3).model_dump_json())
    assert checks(context).wording.min_words == 3 and checks(context).asked.blocked == ["cheap"]
