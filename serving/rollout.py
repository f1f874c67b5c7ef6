"""A rollout: champion and candidate of a service in one process, and what came of asking both.

A canary answers its share of the requests; where it fails, the champion answers in its place. A shadow is asked after
the champion's answer went out. Whether the candidate takes over is decided by `verdict`, from the counts of all
replicas.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import Field

from configs.loader import Spec
from configs.schema.serving import RolloutSpec
from serving.bundle import Bundle
from serving.service import VERSION, Answer, Caller, ClientLeft, Route, Stream, Versioned, check_version, to_json

BUCKETS = 10_000  # that keys are put into: shares are as fine as a hundredth of a per cent
TIMES = 1000  # latest answers of a replica whose times are kept
WAITING = 32  # comparisons that may wait; further requests are not compared
PATIENCE = 0.5  # share of the time left that a candidate may take, before the champion is asked


class Counts(Spec):
    """What came of a rollout so far, in one replica or in all."""

    requests: int = 0  # that the candidate was asked, and one of both answered
    errors: int = 0  # of them, that the champion alone could answer
    compared: int = 0  # inputs that both answered
    agreed: int = 0  # of them, alike
    skipped: int = 0  # requests that were not compared: streams, and where too many wait
    candidate_ms: list[float] = Field(default=[], description="times of its latest answers")
    champion_ms: list[float] = Field(default=[], description="times of the champion's latest answers")

    @property
    def agreement(self) -> float:
        """Share of the inputs that both answered alike; nan where none was compared."""
        return self.agreed / self.compared if self.compared else float("nan")

    @property
    def p95_ms(self) -> float:
        """Of the candidate's latest answers; nan where there is none."""
        return _p95(self.candidate_ms)

    @property
    def champion_p95_ms(self) -> float:
        """The same of the champion's, while both answered."""
        return _p95(self.champion_ms)


class Report(Spec):
    """What a replica says of itself."""

    number: int = Field(description="of the `serving.running.Running` that it runs")
    counts: Counts


def alike_of(bundle: Bundle) -> list[str]:
    """What two equal answers to an input have in common, by its names: all that it says but scores."""
    return [name for name, kind in bundle.record.answers.items() if kind != "double"]


def together(counts: Iterable[Counts]) -> Counts:
    """Those of all replicas."""
    found = Counter[str]()
    times: dict[str, list[float]] = {"candidate_ms": [], "champion_ms": []}
    for each in counts:
        found.update(each.model_dump(exclude={*times}))
        for name in times:
            times[name].extend(getattr(each, name))
    return Counts.model_validate({**found, **times})


class Verdict(NamedTuple):
    """The end of a rollout."""

    promoted: bool
    reason: str  # in words


def verdict(counts: Counts, spec: RolloutSpec, left_s: float) -> Verdict | None:
    """Whether the candidate takes over, and why; None while that is open."""
    allowed = spec.max_error_rate * max(spec.requests, counts.requests)
    if counts.errors > allowed:
        said = f"{counts.errors:,} of {counts.requests:,} requests failed"
        return Verdict(False, f"{said}, and max_error_rate={spec.max_error_rate:g} of {spec.requests:,} may")
    asked = counts.requests if spec.min_agreement is None else min(counts.requests, counts.compared)
    if asked < spec.requests:
        if left_s > 0:
            return None
        what = "requests" if spec.min_agreement is None else "comparisons"
        return Verdict(False, f"{asked:,} of {spec.requests:,} {what} came in max_seconds={spec.max_seconds:g}")
    said = f"{counts.requests:,} requests: {counts.errors:,} failed, p95 {counts.p95_ms:.3g} ms"
    if counts.compared:
        said += f", {counts.agreement:.2%} of {counts.compared:,} inputs answered alike"
    if spec.max_served_p95_ms is not None and not counts.p95_ms <= spec.max_served_p95_ms:
        return Verdict(False, f"{said}; max_served_p95_ms={spec.max_served_p95_ms:g}")
    if spec.min_agreement is not None and not counts.agreement >= spec.min_agreement:
        return Verdict(False, f"{said}; min_agreement={spec.min_agreement:g}")
    return Verdict(True, said)


class Rollout:
    """Both models in the place of one; see `serving.service.InService`."""

    def __init__(
        self, champion: Versioned, candidate: Versioned, spec: RolloutSpec, until: float, alike: Sequence[str]
    ) -> None:
        """`until`: Unix time when the candidate is asked no more; `alike`: what two equal answers to an input have in
        common, by its names."""
        self._champion, self._candidate = champion, candidate
        self._spec, self._until, self._alike = spec, until, alike
        self._share = (spec.canary or 0) / 100 * BUCKETS
        self._routes = {path: partial(self._ask, path) for path in champion.routes}
        self._numbers = dict.fromkeys(("requests", "errors", "compared", "agreed", "skipped"), 0)
        self._candidate_ms: deque[float] = deque(maxlen=TIMES)
        self._champion_ms: deque[float] = deque(maxlen=TIMES)
        self._waiting: set[asyncio.Task[None]] = set()
        self._one = asyncio.Semaphore(1)

    @property
    def routes(self) -> Mapping[str, Route]:
        """Those of the champion; where the candidate lacks one the champion answers."""
        return self._routes

    @property
    def counts(self) -> Counts:
        """What came of it here."""
        times = {"candidate_ms": list(self._candidate_ms), "champion_ms": list(self._champion_ms)}
        return Counts.model_validate({**self._numbers, **times})

    def running_s(self) -> float:
        """Of the champion: a candidate that does not get on is not asked for long, see `PATIENCE`."""
        return self._champion.running_s()

    async def _ask(self, path: str, body: bytes, caller: Caller) -> Answer:
        champion = self._champion.routes[path]
        route = self._candidate.routes.get(path) if time.time() < self._until else None
        if (version := caller.header(VERSION)) is not None:  # what people choose says nothing about customers
            both = ((self._champion.version, champion), (self._candidate.version, route))
            answering = {name: each for name, each in both if each}
            check_version(caller, list(answering))
            return await answering[version](body, caller)
        if route is None:
            return await champion(body, caller)
        if self._spec.shadow or not self._chooses(caller):
            answer = await _timed(champion, body, caller, self._champion_ms)
            if self._spec.shadow:
                self._later(partial(self._try_shadow, route, body, answer), answer)
            return answer
        answer = await self._tried(route, body, caller)
        if answer is None:
            answer = await champion(body, caller)  # where it refuses the request, too, the candidate was right
            self._count(failed=True)
            return answer
        self._count()
        if self._spec.min_agreement is not None:
            self._later(partial(self._ask_champion, champion, body, answer), answer)
        return answer

    def _count(self, failed: bool = False) -> None:
        self._numbers["requests"] += 1
        self._numbers["errors"] += failed

    def _chooses(self, caller: Caller) -> bool:
        """Whether the candidate answers: by the caller's key, the same in every replica, or by chance."""
        key = caller.header(self._spec.sticky) if self._spec.sticky else None
        if key is None:
            return random.random() * BUCKETS < self._share
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % BUCKETS < self._share

    async def _tried(self, route: Route, body: bytes, caller: Caller) -> Answer | None:
        """The candidate's answer; None where it has none, for whatever reason: its message may quote the customer."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + PATIENCE * (caller.until - now)):
                answer = await _timed(route, body, caller, self._candidate_ms)
            if isinstance(answer, Stream):
                return Stream(self._counted(answer.events), answer.close)
            to_json(answer)  # which refuses what is no number
        except ClientLeft:
            raise
        except Exception:  # noqa: BLE001 - see above
            return None
        return answer

    async def _counted(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for each in events:
                yield each
        except Exception:
            self._numbers["errors"] += 1
            raise

    def _later(self, ask: Callable[[], Coroutine[Any, Any, None]], answer: Answer) -> None:
        """Have the other model asked, one request after the other, so that customers hardly wait for it."""
        if len(self._waiting) >= WAITING or isinstance(answer, Stream):
            self._numbers["skipped"] += 1
            return

        async def in_turn() -> None:
            async with self._one:
                await ask()

        task = asyncio.ensure_future(in_turn())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _try_shadow(self, route: Route, body: bytes, answer: Answer) -> None:
        other = await self._tried(route, body, _nobody())
        self._count(failed=other is None)
        self._compare(answer, other)

    async def _ask_champion(self, route: Route, body: bytes, answer: Answer) -> None:
        try:
            other = await route(body, _nobody())
        except Exception:  # noqa: BLE001 - whatever it is, it says nothing about the candidate
            self._numbers["skipped"] += 1
        else:
            self._compare(answer, other)

    def _compare(self, answer: Answer, other: Answer | None) -> None:
        if not isinstance(answer, Mapping) or not isinstance(other, Mapping):
            return
        pairs = list(zip(answer.get("predictions", ()), other.get("predictions", ()), strict=False))
        alike = [all(one.get(name) == two.get(name) for name in self._alike) for one, two in pairs]
        self._numbers["compared"] += len(alike)
        self._numbers["agreed"] += sum(alike)


def _p95(times: Sequence[float]) -> float:
    import numpy as np

    return float(np.percentile(times, 95)) if times else float("nan")


async def _timed(route: Route, body: bytes, caller: Caller, times: deque[float]) -> Answer:
    began = time.perf_counter()
    answer = await route(body, caller)
    times.append(1e3 * (time.perf_counter() - began))
    return answer


def _nobody() -> Caller:
    """Who waits for what nobody waits for."""
    return Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + 60)
