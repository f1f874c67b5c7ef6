"""Requests of a model in service, counted by what came of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from serving.drift import WINDOW, Distribution, Profile
from serving.inputs import InputError
from serving.metered import Metered
from serving.metrics import DRIFT, MODEL, ONGOING, REQUEST_SECONDS, REQUESTS, Meter, Metric, Nowhere
from serving.service import Answer, Caller, ClientLeft, Refused, Route, Stream

OF_MODEL = {"service": "intent", "version": "3"}


class Written:
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        self.all: list[tuple[Metric, float, Mapping[str, str]]] = []

    def write(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        self.all.append((metric, value, labels))

    def of(self, metric: Metric) -> list[tuple[float, Mapping[str, str]]]:
        return [(value, labels) for kind, value, labels in self.all if kind == metric]


class Model:
    """A model in service that does as it is told."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self._said = answer

    @property
    def routes(self) -> Mapping[str, Route]:
        return {"": self._answer}

    def running_s(self) -> float:
        return 0.0

    async def _answer(self, body: bytes, caller: Caller) -> Answer:
        return self._said()


def raising(error: BaseException) -> Callable[[], Answer]:
    def fault() -> Answer:
        raise error

    return fault


def asked(answer: Callable[[], Answer], use: Callable[[Stream], object] | None = None) -> Written:
    """What is written of one request."""
    written = Written()

    async def ask() -> None:
        route = Metered(Model(answer), Meter(written, "intent", "3")).routes[""]
        caller = Caller(asyncio.Event().wait, asyncio.get_running_loop().time() + 5)
        said = await route(b"", caller)
        if isinstance(said, Stream) and use:
            try:
                await use(said)  # pyright: ignore[reportGeneralTypeIssues] - a coroutine
            finally:
                said.close()
                said.close()

    with contextlib.suppress(BaseException):  # what the model raised is raised
        asyncio.run(ask())
    assert [value for value, _ in written.of(ONGOING)] == [1, 0]
    return written


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda: {"predictions": []}, "200"),
        (raising(Refused(429, "full")), "429"),
        (raising(InputError("input 0")), "422"),
        (raising(ClientLeft()), "499"),
        (raising(TimeoutError()), "504"),
        (raising(asyncio.CancelledError()), "504"),
        (raising(RuntimeError("a customer's text")), "500"),
    ],
)
def test_a_request_counts_once_by_the_status_of_its_answer(answer: Callable[[], Answer], status: str):
    written = asked(answer)
    assert written.of(REQUESTS) == [(1, {**OF_MODEL, "status": status})]
    assert len(written.of(REQUEST_SECONDS)) == (status == "200")
    assert "customer" not in str(written.all)


def test_another_version_than_the_one_that_answers_is_refused():
    model = Metered(Model(dict), Meter(Nowhere(), "intent", "3"))

    async def ask(version: str | None) -> Answer:
        return await model.routes[""](b"", Caller(asyncio.Event().wait, 0, lambda _: version))

    assert asyncio.run(ask("3")) == asyncio.run(ask(None)) == {}
    with pytest.raises(Refused, match="X-Model-Version: 3 can be asked for here"):
        asyncio.run(ask("4"))


async def whole(stream: Stream) -> None:
    assert [each async for each in stream.events] == [b"a", b"b"]


async def first(stream: Stream) -> None:
    assert await anext(stream.events) == b"a"


@pytest.mark.parametrize(
    ("use", "fails", "status"), [(whole, False, "200"), (first, False, "499"), (whole, True, "500")]
)
def test_a_stream_counts_once_when_it_has_ended(use: Callable[[Stream], object], fails: bool, status: str):
    async def events() -> AsyncIterator[bytes]:
        yield b"a"
        if fails:
            raise RuntimeError
        yield b"b"

    written = asked(lambda: Stream(events(), lambda: None), use)
    assert written.of(REQUESTS) == [(1, {**OF_MODEL, "status": status})]


def test_gauges_are_told_again_and_counters_are_not():
    written = Written()
    meter = Meter(written, "intent", "3", profile=Profile({"label": Distribution(values=["a", "b"], counts=[5, 5])}))
    meter.opens("classify")
    for number in range(WINDOW):
        meter.label("ab"[number % 2], 0.5)
    before = len(written.all)
    meter.refresh()
    told = {(metric, *labels.values()): value for metric, value, labels in written.all[before:]}
    assert told == {
        (MODEL, "intent", "3", "classify"): 1,
        (DRIFT, "intent", "3", "label"): pytest.approx(-(1 / 10 + 1 / WINDOW)),
    }
