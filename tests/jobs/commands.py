"""`python -m jobs.prepare` in this process, with what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

import jobs.prepare
from configs.schema.recipe import Recipe
from jobs.command import Result, main


class Refusal:
    """Runs a command that must be refused; keeps its one line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str, kind: type[Recipe] = Recipe) -> str:
        code, out, err = command(self.capsys, *arguments, kind=kind)
        assert code == 2, err
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "Traceback" not in err
        return err


def command(
    capsys: pytest.CaptureFixture[str], *arguments: str, run: Any = None, kind: type[Recipe] = Recipe
) -> tuple[Any, str, str]:
    """(exit code, stdout, stderr) of `python -m jobs.prepare <arguments>` with another `run`."""

    def nothing(recipe: Recipe) -> Result:
        return Result("prepare", "run-1", recipe.output or "", {"rows": 1.0})

    job = run or nothing
    job.__module__ = jobs.prepare.__name__
    with pytest.raises(SystemExit) as left:
        main(job, arguments, kind=kind)
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err
