"""What `deploy` says of the file of API keys that a recipe names."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import session
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.serving import ServingSpec
from jobs.deploy import check_serve
from serving.dashboard import Dashboard
from serving.keys import add


def test_a_file_of_keys_that_cannot_be_used_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, other = tmp_path / "keys.json", tmp_path / "other.json"
    asked = Recipe(name="intent", serving=ServingSpec(keys="keys.json")).on_driver(tmp_path, tmp_path / "elsewhere")
    assert asked.serving.keys == str(path)
    with pytest.raises(UsageError, match=r"^serving\.keys: .*/keys\.json: no such file; "):
        check_serve(asked)
    for each in (path, other):
        add(each, "one")
    running = {"args": {"serving": {"keys": str(other)}}, "deployments": [{"user_config": {"name": "intent"}}]}
    monkeypatch.setattr(session, "dashboard", lambda: ("http://127.0.0.1:1", {}))
    monkeypatch.setattr(Dashboard, "check", lambda _: {"shop": running})
    with pytest.raises(JobError, match=r"^serving\.keys: the services of a cluster have one file of API keys"):
        check_serve(asked)
    monkeypatch.setattr(Dashboard, "check", lambda _: {"intent": running})
    check_serve(asked)


def test_the_environment_does_not_name_it(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^serving\.keys: env:KEYS: "):
        Recipe(name="intent", serving=ServingSpec(keys="env:KEYS")).on_driver(tmp_path, tmp_path)
