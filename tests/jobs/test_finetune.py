"""What finetune refuses before any worker starts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import session, tracking
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs import finetune as module
from jobs import optimize, tune
from jobs.data.prepared import Prepared
from jobs.training.fit import finetune, teacher_key, weights_key
from tests.tiny.folders import encoder_folder


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
    (tmp_path / "prepared").mkdir()
    monkeypatch.setattr("jobs.prepare.read", lambda _: SimpleNamespace(key="k"))
    monkeypatch.setattr("jobs.prepare.opened", lambda *_: prepared)
    monkeypatch.setattr("jobs.optimize.audit.look_at_test", lambda *_: None)
    monkeypatch.setattr("cluster.launch.fit", lambda *_: pytest.fail("trained"))
    encoder_folder(tmp_path / "model", num_hidden_layers=6)
    given = {"teacher": {"model": str(tmp_path / "model")}, "student": {"layers": 12}}
    with pytest.raises(UsageError, match=r"^student\.layers: 12 layers asked, the teacher has 6$"):
        run(Recipe.model_validate({"name": "x", "output": str(tmp_path), **given}))


def test_a_teacher_depends_on_the_weights_of_its_folder(tmp_path: Path):
    prepared = Prepared(tmp_path, {"key": "k"})
    recipe = Recipe.model_validate({"name": "x", "teacher": {"model": str(tmp_path)}})
    keys = []
    for name, content in (
        ("model.safetensors", b"a"),
        ("model.safetensors", b"b"),
        ("config.json", b"{}"),
        ("1_Pooling/config.json", b"{}"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        keys.append(teacher_key(recipe, prepared))
    assert len(set(keys)) == len(keys)
    (tmp_path / "README.md").write_text("what it is")
    assert teacher_key(recipe, prepared) == keys[-1]


def test_of_a_package_the_weights_count_and_of_a_hub_id_and_a_new_model_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "weights_of_mine" / "model").mkdir(parents=True)
    (tmp_path / "weights_of_mine" / "__init__.py").touch()
    (tmp_path / "weights_of_mine" / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert weights_key("package:weights_of_mine/model", "teacher.model").keys() == {"weights"}
    for model in ("owner/name", "new:llama", None):
        assert weights_key(model, "teacher.model") == {}
