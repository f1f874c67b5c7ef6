"""A process that crashes leaves no core file; one that may leave one does, where this machine writes them."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.servers import WITHOUT_CORE_FILES
from tests.processes import ROOT

CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
MAY = "from resource import *; hard = getrlimit(RLIMIT_CORE)[1]; setrlimit(RLIMIT_CORE, (hard, hard)); "
PATTERN = Path("/proc/sys/kernel/core_pattern")


def crashed(folder: Path, code: str) -> list[Path]:
    """What a process leaves that runs `code`, which ends it by a signal, with this project at hand."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    return list(folder.iterdir())


def writes_core_files() -> bool:
    """Whether this process may leave them, as files beside it."""
    return resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 and not PATTERN.read_text().startswith(("|", "/"))


def test_a_crash_leaves_a_core_file_unless_they_are_forbidden(tmp_path: Path):
    for name in ("may", "forbidden"):
        (tmp_path / name).mkdir()
    assert bool(crashed(tmp_path / "may", MAY + CRASH)) == writes_core_files()
    assert not crashed(tmp_path / "forbidden", f"{MAY}from configs.core_files import forbid; forbid(); {CRASH}")


def test_what_the_servers_start_may_leave_none_whatever_their_limit_was():
    child = subprocess.Popen([*WITHOUT_CORE_FILES, sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = psutil.Process(child.pid)
    while own.exe() == "/bin/sh" or own.name() == "sh":  # until it has become the program
        assert child.poll() is None
    assert own.rlimit(psutil.RLIMIT_CORE) == (0, 0) and own.cmdline()[-1] == "input()"
    child.communicate(b"\n", timeout=15)
    assert child.returncode == 0
