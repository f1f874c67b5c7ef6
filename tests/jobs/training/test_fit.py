from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.training import fit
from jobs.training.fit import student_key


def test_a_pretrained_student_depends_on_the_weights_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fit, "taught_by", lambda recipe: [])
    given = {"student": {"kind": "pretrained", "model": str(tmp_path)}}
    recipe, prepared = Recipe.model_validate({"name": "x", **given}), Prepared(tmp_path, {"key": "k"})
    keys = []
    for content in (b"a", b"b"):
        (tmp_path / "model.safetensors").write_bytes(content)
        keys.append(student_key(recipe, prepared))
    assert keys[0] != keys[1]
