"""What finetune refuses before any worker starts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertConfig

from cluster import session, tracking
from configs.loader import UsageError
from jobs import finetune as module
from jobs import optimize, prepare, tune
from jobs.data.prepared import Prepared
from jobs.finetune import finetune
from jobs.recipe import Recipe


def test_a_given_teacher_bundle_is_not_written_over(tmp_path: Path):
    given = {"name": "x", "output": str(tmp_path), "teacher": {"bundle": str(tmp_path / "mine")}}
    recipe = Recipe.model_validate(given)
    with pytest.raises(UsageError, match=r"teacher\.bundle: .*mine: finetune would write over it"):
        finetune(recipe, Prepared(tmp_path, {"key": "k", "labels": ["a", "b"]}))


@pytest.mark.parametrize("run", [module.run, tune.run, optimize.run], ids=lambda run: run.__module__)
def test_a_student_that_the_teacher_cannot_have_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
):
    prepared = Prepared(tmp_path, {"key": "k", "labels": ["a", "b"]})
    told = SimpleNamespace(id="run", tag=lambda **_: None)
    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext(told))
    for name in ("connect", "check_capacity"):
        monkeypatch.setattr(session, name, lambda *_: None)
    for place in (module, tune):
        monkeypatch.setattr(place, "prepare", lambda recipe: prepared)
    monkeypatch.setattr(prepare, "run", lambda *_: None)
    monkeypatch.setattr(Prepared, "open", lambda *_: prepared)
    monkeypatch.setattr("cluster.launch.fit", lambda *_: pytest.fail("trained"))
    BertConfig(num_hidden_layers=6).save_pretrained(tmp_path / "model")
    given = {"teacher": {"model": str(tmp_path / "model")}, "student": {"layers": 12}}
    with pytest.raises(UsageError, match=r"^student\.layers: 12 layers asked, the teacher has 6$"):
        run(Recipe.model_validate({"name": "x", "output": str(tmp_path), **given}))
