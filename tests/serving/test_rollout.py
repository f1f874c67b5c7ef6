"""Champion and candidate of a service in one process: who answers, what is counted, and when it ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from configs.schema.serving import RolloutSpec, ServingSpec
from serving.bundle import read_description
from serving.endpoint import create_app
from serving.labelling import put_in_service
from serving.metered import Metered
from serving.metrics import Meter, Nowhere
from serving.rollout import WAITING, Counts, Rollout, alike_of, together, verdict
from serving.service import Answer, Caller, Refused, Release, Stream
from tests.tiny.bundles import write_tiny_bundle

SPEC = ServingSpec.model_validate({"request_timeout_s": 5})
LATER = time.time() + 3600


class Model:
    """A model in service that says who it is, or does as it is told."""

    def __init__(self, version: str, label: str = "a", fault: Callable[[], Answer] | None = None) -> None:
        self.version, self.label, self.fault, self.asked = version, label, fault, 0
        self.routes = {"": self.answer}

    async def answer(self, body: bytes, caller: Caller) -> Answer:
        self.asked += 1
        if self.fault:
            return self.fault()
        return {"model": {"version": self.version}, "predictions": [{"label": self.label, "score": self.asked}]}

    def running_s(self) -> float:
        return 0.0


def raises(error: BaseException) -> Callable[[], Answer]:
    def fault() -> Answer:
        raise error

    return fault


def rollout(candidate: Model, champion: Model | None = None, until: float = LATER, **spec: Any) -> Rollout:
    told = RolloutSpec.model_validate({"canary": 50, **spec})
    return Rollout(champion or Model("1"), candidate, told, until, ["label"])


def ask(model: Rollout, times: int = 1, headers: Callable[[int], dict[str, str]] = lambda _: {}) -> list[str]:
    """Versions that answered."""
    with TestClient(create_app("intent", SPEC, lambda: model), raise_server_exceptions=False) as client:
        got = []
        for number in range(times):
            response = client.post("/v1/intent", json={"inputs": ["x"]}, headers=headers(number))
            got.append(response.json().get("model", {"version": str(response.status_code)})["version"])
            compared(client, model)
        return got


def compared(client: TestClient, model: Rollout) -> None:
    """Wait for what is compared after the answer."""

    async def rest() -> None:
        await asyncio.gather(*model._waiting)

    assert client.portal
    client.portal.call(rest)


def test_a_canary_answers_its_share():
    model = rollout(Model("2"), canary=20)
    got = Counter(ask(model, 1000))
    assert 140 <= got["2"] <= 260  # 5 standard deviations
    assert (model.counts.requests, model.counts.errors) == (got["2"], 0)
    assert len(model.counts.candidate_ms) == got["2"]
    assert len(model.counts.champion_ms) == got["1"]


def test_a_customer_stays_with_one_model_in_every_replica():
    def of(number: int) -> dict[str, str]:
        return {"X-Customer": f"customer {number % 50}"}

    first, second = (ask(rollout(Model("2"), sticky="x-customer"), 100, of) for _ in range(2))
    assert first[:50] == first[50:] == second[:50]
    assert 10 <= first[:50].count("2") <= 40


def test_a_request_is_answered_by_the_version_that_it_asks_for_and_counts_for_neither():
    model = rollout(Model("2"), canary=50)
    wanted = ["1", "2"] * 10
    assert ask(model, 20, lambda number: {"X-Model-Version": wanted[number]}) == wanted
    assert model.counts == Counts()
    assert ask(model, 1, lambda _: {"X-Model-Version": "3"}) == ["422"]
    over = rollout(Model("2"), until=0.0)
    assert ask(over, 2, lambda number: {"X-Model-Version": wanted[number]}) == ["1", "422"]


@pytest.mark.parametrize(
    "fault",
    [
        raises(ValueError("broken")),
        raises(Refused(503, "too many")),
        raises(Refused(422, "longer than this model reads")),
        lambda: {"model": {"version": "2"}, "predictions": [{"label": "a", "score": math.nan}]},
    ],
)
def test_where_the_candidate_fails_the_champion_answers(fault: Callable[[], Answer]):
    model = rollout(Model("2", fault=fault), canary=99.99)
    assert ask(model, 20) == ["1"] * 20
    assert (model.counts.requests, model.counts.errors) == (20, 20)


def test_a_candidate_that_hangs_is_not_waited_for_to_the_end():
    class Hangs(Model):
        async def answer(self, body: bytes, caller: Caller) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    model = rollout(Hangs("2"), canary=99.99)
    spec = ServingSpec.model_validate({"request_timeout_s": 0.4})
    with TestClient(create_app("intent", spec, lambda: model)) as client:
        assert client.post("/v1/intent", json={"inputs": ["x"]}).json()["model"]["version"] == "1"
    assert model.counts.errors == 1


def test_a_request_that_both_refuse_says_nothing_about_the_candidate():
    refuses = raises(Refused(422, "inputs must be a list"))
    model = rollout(Model("2", fault=refuses), Model("1", fault=refuses), canary=99.99)
    assert ask(model, 5) == ["422"] * 5
    assert model.counts.requests == 0


def test_a_stream_that_breaks_is_an_error():
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise ValueError("broken")

    model = rollout(Model("2", fault=lambda: Stream(events(), lambda: None)), canary=99.99)
    with TestClient(create_app("intent", SPEC, lambda: model)) as client:
        assert "event: error" in client.post("/v1/intent", json={"inputs": ["x"]}).text
    assert (model.counts.requests, model.counts.errors) == (1, 1)


@pytest.mark.parametrize(("label", "agreed"), [("a", 30), ("b", 0)])
def test_a_shadow_is_compared_and_never_seen(label: str, agreed: int):
    candidate = Model("2", label)
    model = rollout(candidate, canary=None, shadow=True)
    assert ask(model, 30) == ["1"] * 30
    assert candidate.asked == model.counts.requests == model.counts.compared == 30
    assert model.counts.agreed == agreed  # scores aside


def test_a_shadow_that_fails_is_counted_and_never_seen():
    model = rollout(Model("2", fault=raises(ValueError("broken"))), canary=None, shadow=True)
    assert ask(model, 10) == ["1"] * 10
    assert (model.counts.requests, model.counts.errors, model.counts.compared) == (10, 10, 0)


def test_a_canary_is_compared_where_that_decides():
    champion = Model("1")
    model = rollout(Model("2", "b"), champion, canary=99.99, min_agreement=0.9)
    assert ask(model, 10) == ["2"] * 10
    assert (model.counts.compared, model.counts.agreed, champion.asked) == (10, 0, 10)


def test_so_many_comparisons_wait_and_no_more():
    go_on = asyncio.Event()

    class Slow(Model):
        async def answer(self, body: bytes, caller: Caller) -> Answer:
            await go_on.wait()
            return await super().answer(body, caller)

    async def run() -> Counts:
        model = rollout(Slow("2"), canary=None, shadow=True)
        caller = Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + 20)
        for _ in range(WAITING + 5):
            await model.routes[""](b"{}", caller)
        go_on.set()
        await asyncio.gather(*model._waiting)
        return model.counts

    counts = asyncio.run(run())
    assert (counts.skipped, counts.compared) == (5, WAITING)


def test_after_its_time_the_candidate_is_asked_no_more():
    candidate = Model("2")
    assert ask(rollout(candidate, canary=99.99, until=time.time() - 1), 10) == ["1"] * 10
    assert candidate.asked == 0


def test_two_real_models_are_compared_by_their_labels(tmp_path: Path):
    write_tiny_bundle(tmp_path / "one", seed=1)
    write_tiny_bundle(tmp_path / "two", seed=2)
    models = [
        put_in_service("intent", Release(bundle=str(tmp_path / folder), name="t", version=version), SPEC)
        for folder, version in (("one", "1"), ("one", "2"), ("two", "3"))
    ]
    one, same, other = (
        Metered(each, Meter(Nowhere(), "intent", str(place))) for place, each in enumerate(models, start=1)
    )
    alike = alike_of(read_description(tmp_path / "one"))
    assert alike == ["label"]
    texts = ["refund", "where is my order", "cancel it please", "now"]
    found = []
    for candidate in (same, other):
        model = Rollout(one, candidate, RolloutSpec(shadow=True), LATER, alike)
        with TestClient(create_app("intent", SPEC, lambda model=model: model)) as client:
            assert client.post("/v1/intent", json={"inputs": texts}).json()["model"]["version"] == "1"
            compared(client, model)
        found.append(model.counts.agreement)
    both = zip(*(each.classifier.predict(texts) for each in models[::2]), strict=True)
    assert found == [1.0, sum(a["label"] == b["label"] for a, b in both) / len(texts)]


def counts(**given: Any) -> Counts:
    return Counts.model_validate(given)


def spec(**given: Any) -> RolloutSpec:
    return RolloutSpec.model_validate({"canary": 10, "requests": 100, **given})


@pytest.mark.parametrize(
    ("found", "told", "left", "promoted", "reason"),
    [
        (counts(requests=99), spec(), 10, None, ""),
        (counts(requests=100, candidate_ms=[2.0]), spec(), 10, True, "100 requests: 0 failed, p95 2 ms"),
        (counts(requests=40), spec(), 0, False, "40 of 100 requests came in max_seconds=3600"),
        (counts(requests=1, errors=1), spec(), 10, False, "1 of 1 requests failed, and max_error_rate=0 of 100 may"),
        (counts(requests=10, errors=2), spec(max_error_rate=0.02), 10, None, ""),
        (counts(requests=10, errors=3), spec(max_error_rate=0.02), 10, False, "3 of 10 requests failed"),
        (counts(requests=100, candidate_ms=[9.0]), spec(max_served_p95_ms=8), 10, False, "max_served_p95_ms=8"),
        (counts(requests=100, candidate_ms=[8.0]), spec(max_served_p95_ms=8), 10, True, "p95 8 ms"),
        (counts(requests=100), spec(max_served_p95_ms=8), 10, False, "p95 nan ms; max_served_p95_ms=8"),
        (counts(requests=100, compared=99, agreed=99), spec(min_agreement=0.9), 10, None, ""),
        (counts(requests=100, compared=99, agreed=99), spec(min_agreement=0.9), 0, False, "99 of 100 comparisons"),
        (counts(requests=100, compared=100, agreed=89), spec(min_agreement=0.9), 10, False, "min_agreement=0.9"),
        (counts(requests=100, compared=100, agreed=90), spec(min_agreement=0.9), 10, True, "90.00% of 100 inputs"),
    ],
)
def test_the_verdict_holds_every_limit(
    found: Counts, told: RolloutSpec, left: float, promoted: bool | None, reason: str
):
    said = verdict(found, told, left)
    assert (said and said.promoted) is promoted
    assert said is None or reason in said.reason


def test_counts_of_replicas_are_added():
    parts = [
        counts(requests=1, errors=1, candidate_ms=[1.0]),
        counts(requests=2, compared=3, agreed=2, candidate_ms=[2.0]),
    ]
    assert together(parts) == counts(requests=3, errors=1, compared=3, agreed=2, candidate_ms=[1.0, 2.0])
    assert together([]) == Counts()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give either canary"),
        ({"canary": 10, "shadow": True}, "give either canary"),
        ({"shadow": True, "sticky": "x-customer"}, "sticky='x-customer' means nothing with shadow=true"),
        ({"canary": 100}, "less than 100"),
        ({"canary": 10, "sticky": "a b"}, "sticky"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(given: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        RolloutSpec.model_validate(given)
