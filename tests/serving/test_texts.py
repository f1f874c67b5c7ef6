"""What of a text goes out at a time, seen from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from serving.texts import Manner, Texts, Written
from tests.tiny.decoders import byte_tokenizer

TOKENIZER = byte_tokenizer()
SAID = ["Ausgeliefert 🙂", "am 订单 42"]


def told(texts: Texts, index: int, said: str) -> None:
    """As a model writes it, and ends it."""
    for token in TOKENIZER.encode(said).ids:
        texts.writings[index].take(token)
    texts.writings[index].take(None)


def pieces(write: Callable[[Texts], None], stream: bool, before: bool) -> list[Written]:
    """Those of two texts, which are written `before` the loop asks for them, or beside it in a thread."""

    async def read() -> list[Written]:
        texts = Texts([[1], [1]], [99, 99], Manner(stream=stream), TOKENIZER)
        writing = threading.Thread(target=write, args=(texts,))
        writing.start()
        if before:
            writing.join()
        return [each async for each in texts.pieces(asyncio.get_running_loop().time() + 20)]

    return asyncio.run(read())


def both(texts: Texts) -> None:
    for index, said in enumerate(SAID):
        told(texts, index, said)


@pytest.mark.parametrize("stream", [True, False])
def test_all_that_came_before_it_is_taken_is_one_piece(stream: bool):
    came = pieces(both, stream, before=True)
    assert [(each.index, each.text, each.finish_reason) for each in came] == [
        (0, SAID[0], "stop"),
        (1, SAID[1], "stop"),
    ]
    assert all(each.finish_reason == "stop" and each.usage for each in came)


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_lost_and_nothing_comes_twice_beside_a_model_that_writes(stream: bool):
    for _ in range(50):
        came = pieces(both, stream, before=False)
        assert ["".join(each.text for each in came if each.index == index) for index in (0, 1)] == SAID
        assert [each.index for each in came if each.finish_reason] == [0, 1]
        assert stream or len(came) == 2


def test_what_was_written_before_the_model_failed_is_told_first():
    async def read() -> None:
        texts = Texts([[1], [1]], [99, 99], Manner(stream=True), TOKENIZER)
        told(texts, 0, SAID[0])
        texts.writings[1].fail(ValueError("broken"))
        came = texts.pieces(asyncio.get_running_loop().time() + 20)
        assert (await anext(came)).text == SAID[0]
        with pytest.raises(ValueError, match="broken"):
            await anext(came)

    asyncio.run(read())
