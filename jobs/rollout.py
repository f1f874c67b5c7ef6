"""The rollout of a registered model: tried beside the champion until its verdict, then promoted or sent back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster import registry, session
from cluster.session import JobError
from configs.schema.recipe import Recipe
from jobs.release import RETURNED_TAG, now
from serving import deployment
from serving.change import tell
from serving.dashboard import Application, Dashboard, DeployError
from serving.rollout import Counts, Verdict, together, verdict
from serving.running import Candidate, Running

POLL_S = 1.0
SAY_S = 15.0
ASK_S = 30.0
log = logging.getLogger(__name__)


class Rolled(NamedTuple):
    """The end of a rollout."""

    endpoint: str
    counts: Counts
    reason: str  # why the candidate was promoted


def roll_out(
    recipe: Recipe,
    application: Application,
    places: Path,
    allowed: Callable[[Mapping[str, Any] | None], None],
    answering: Callable[[str], None],
) -> Rolled | None:
    """Try the model of `application` on the requests of its service; None where that has no champion yet.

    `answering` is called with the reason when the model has taken over. One that is sent back raises a `DeployError`
    with the reason, which its version's tags say, too. Whatever ends this process, the champion answers alone again.
    """
    dashboard_url, headers = session.dashboard()
    given = (dashboard_url, headers, recipe.serving)
    running = deployment.begin(*given, application, places, allowed)
    if running is None:
        log.info("%s runs nothing yet, so there is nothing to try its first model against", recipe.service)
        return None
    assert running.candidate
    tried = _Tried(recipe.service, running, running.candidate)

    def end(promoted: bool, told: Callable[[], None] = lambda: None) -> None:
        if deployment.end(*given, recipe.service, places, promoted, running.number, told) is None:
            raise tried.ended_by_another()

    try:
        counts, found = tried.watch()
    except BaseException as error:
        tried.send_back(end, str(error) if isinstance(error, DeployError) else f"ended by {type(error).__name__}")
        raise
    if not found.promoted:
        tried.send_back(end, found.reason)
        raise DeployError(f"{tried} was not promoted, version {running.champion.version} goes on: {found.reason}")
    end(True, lambda: answering(found.reason))
    log.info("%s is promoted: %s", tried, found.reason)
    return Rolled(f"{Dashboard(*given).address}/v1/{recipe.service}", counts, found.reason)


class _Tried(NamedTuple):
    """A candidate that is being tried."""

    service: str
    running: Running
    candidate: Candidate

    def __str__(self) -> str:
        return f"{self.service}: version {self.candidate.release.version}"

    def watch(self) -> tuple[Counts, Verdict]:
        """Ask all replicas until there is a verdict. Raises `DeployError`."""
        said = -SAY_S
        while True:
            reports = tell(self.service, ASK_S)
            if any(each.number != self.running.number for each in reports):
                raise self.ended_by_another()
            counts, left = together(each.counts for each in reports), self.candidate.until - time.time()
            if (found := verdict(counts, self.candidate.rollout, left)) is not None:
                return counts, found
            if time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                log.info("%s: %s, at most %.0f s to go", self, in_words(counts), left)
            time.sleep(POLL_S)

    def ended_by_another(self) -> DeployError:
        return DeployError(f"{self}: another command ended its rollout")

    def send_back(self, end: Callable[[bool], None], reason: str) -> None:
        """Have the champion answer alone, and tell why; what goes wrong with it is logged."""
        try:
            end(False)
        except DeployError as error:
            log.error("%s", error)
        release = self.candidate.release
        try:
            words = {f"{RETURNED_TAG}{self.service}": f"{now()}: {reason}"}
            registry.set_tags(release.name, release.version, words, registry.ASK_SECONDS)
        except JobError as error:
            log.warning("%s", error)


def in_words(counts: Counts) -> str:
    """What came of a rollout so far."""
    said = f"{counts.requests:,} requests, {counts.errors:,} failed"
    return f"{said}, {counts.agreement:.2%} of {counts.compared:,} inputs alike" if counts.compared else said


def figures(counts: Counts) -> dict[str, float]:
    """As metrics of a run."""
    found = {"rollout_requests": counts.requests, "rollout_errors": counts.errors}
    found |= {"rollout_p95_ms": counts.p95_ms} if counts.candidate_ms else {}
    found |= {"rollout_champion_p95_ms": counts.champion_p95_ms} if counts.champion_ms else {}
    return found | ({"rollout_agreement": counts.agreement} if counts.compared else {})
