"""What several files of tests of the verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema.recipe import Recipe
from tests.jobs.commands import Refusal
from tests.tiny.bundles import write_tiny_bundle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command would put its outputs."""
    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must be refused."""
    return Refusal(capsys)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Its teacher is there."""
    write_tiny_bundle(tmp_path / "teacher")
    return Recipe(name="tiny", output=str(tmp_path))
