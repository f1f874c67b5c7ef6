"""Processes of `python -m serving.http`, asked over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import requests

from tests.processes import ROOT


@dataclass
class Process:
    """A process that answers at `url`."""

    url: str
    popen: subprocess.Popen[str]

    def post(self, path: str, body: Any, **more: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=15, **more)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=15)


def started(*arguments: str, code: list[str] | None = None, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, *(code or ["-m", "serving.http"]), "--port", "0", *arguments]
    pipe = subprocess.PIPE
    own = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=ROOT, env=own, stdout=pipe, stderr=pipe, encoding="utf-8")


def ready(popen: subprocess.Popen[str], services: int = 1) -> Process:
    """Once each service has said that it answers."""
    assert popen.stderr
    said = [popen.stderr.readline() for _ in range(1 + services)]
    assert "listening" in said[0] and all(" answers" in each for each in said[1:]), said
    return Process(said[0].split(": listening")[0].split()[-1], popen)


def ended(popen: subprocess.Popen[str]) -> int:
    if popen.poll() is None:
        popen.kill()
    popen.communicate(timeout=15)
    return popen.returncode
