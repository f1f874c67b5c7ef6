from __future__ import annotations

import contextlib
from typing import Any

import pytest

from cluster import session, tracking
from cluster.session import JobError
from jobs import deploy, optimize, prepare
from jobs.recipe import SearchRecipe


def test_where_the_winner_could_not_be_deployed_nothing_is_prepared(monkeypatch: pytest.MonkeyPatch):
    def taken(_: Any) -> None:
        raise JobError("port 8000 is taken")

    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    monkeypatch.setattr(prepare, "run", lambda *_: pytest.fail("prepared"))
    monkeypatch.setattr(deploy, "check_serve", taken)
    with pytest.raises(JobError, match="port 8000 is taken"):
        optimize.run(SearchRecipe.model_validate({"name": "x", "deploy": True}))
