from __future__ import annotations

import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ports import choose_ports
from cluster.record import Cluster, write_env
from tests.processes import free_port


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a shell sources, of an environment whose folder has a hard name."""
    programs = tmp_path / "it's $HOME; a *"
    programs.mkdir()
    for name in ("python", "ray"):
        (programs / name).write_text(f"#!/bin/sh\necho own {name}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    ports = choose_ports(free_port(8550), free_port(9050))
    write_env(Cluster(state=tmp_path, home=tmp_path / "home", temp=tmp_path / "temp", ports=ports))
    return tmp_path / "env"


def shell(script: str, path: str | None = "/usr/bin:/bin") -> list[str]:
    """Lines that a strict shell says."""
    environment = {} if path is None else {"PATH": path}
    done = subprocess.run(["/bin/sh", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_shell_that_sources_env_finds_the_programs_of_the_project_first(env: Path):
    assert shell(f". {env}; python; ray") == ["own python", "own ray"]
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["/usr/bin:/bin", "", None])
def test_env_that_is_sourced_twice_is_as_good_as_once(env: Path, path: str | None):
    programs = str(Path(sys.executable).parent)
    (once,) = shell(f'. {env}; printf "%s\\n" "$PATH"', path)
    (twice,) = shell(f'. {env}; . {env}; printf "%s\\n" "$PATH"', path)
    assert once == twice
    assert once.split(":")[0] == programs
    assert shell(f'PATH={shlex.quote(programs)}; . {env}; printf "%s\\n" "$PATH"') == [programs]
