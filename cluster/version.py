"""The version of the running code: a commit, or a digest of the files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path


def code_version(root: Path | None = None) -> tuple[str, str]:
    """(where it is known from, version): $SLIMCART_COMMIT, else git, else a digest of the code's files."""
    if commit := os.environ.get("SLIMCART_COMMIT"):
        return "SLIMCART_COMMIT", commit
    root = root or Path(__file__).resolve().parent.parent
    if (root / ".git").exists():

        def git(*words: str) -> str:
            return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

        try:
            return "git", git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            pass  # no commit yet, or no git: the files themselves say what ran
    digest = hashlib.sha256()
    for package in ("cluster", "configs", "jobs", "serving", "tuning"):
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return "digest", digest.hexdigest()
