"""What a service runs now, in a file that its replicas and whoever changes it share.

Serve's `user_config` would take a replica out of service at each change. So a change writes this file and tells the
replicas, which read it, load what is new beside what answers, and switch; a replica that starts later reads it, too.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field, ValidationError

from configs.folder import write_synced
from configs.loader import Spec
from configs.schema.serving import RolloutSpec
from serving.bundle import BundleError
from serving.service import Release


class Candidate(Spec):
    """A model that is tried beside the champion."""

    release: Release
    rollout: RolloutSpec
    began: float = Field(description="Unix time when the rollout did")

    @property
    def until(self) -> float:
        """Unix time when it is asked no more."""
        return self.began + self.rollout.max_seconds


class Running(Spec):
    """A champion, which answers, and a candidate beside it while a rollout lasts."""

    number: int = Field(description="raised by each change")
    champion: Release
    candidate: Candidate | None = None

    def with_champion(self, release: Release) -> Running:
        """The same service where `release` answers alone."""
        return Running(number=self.number + 1, champion=release)

    def with_candidate(self, release: Release, rollout: RolloutSpec) -> Running:
        """The same service where `release` is tried beside the champion."""
        candidate = Candidate(release=release, rollout=rollout, began=time.time())
        return Running(number=self.number + 1, champion=self.champion, candidate=candidate)


def read_running(path: Path) -> Running | None:
    """What the file says; None where there is none. Raises `BundleError` where it is broken."""
    try:
        return Running.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no file of this version of the program"
        raise BundleError(f"{path}: {reason}; deploy the service again") from None


def write_running(path: Path, running: Running) -> None:
    """Write it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, running.model_dump_json(indent=1))
