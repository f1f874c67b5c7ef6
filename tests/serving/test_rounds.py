"""Texts written in rounds, by real CTranslate2 models."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.generator import Generator, load_generator
from serving.pieces import Text
from serving.rounds import FinishReason, QueueFull, Rounds, Writing
from serving.runtimes import Sampling, Step, WriterModel
from tests.processes import ROOT
from tests.tiny.decoders import write_tiny_decoder

PROMPTS = ["where is my order", "refund", "cancel it", "please", "it is my order, where is it now", "a"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("rounds") / "bundle"
    write_tiny_decoder(folder, seed=3, max_length=120)
    return load_generator(folder)


class Watched:
    """A model that notes its rounds, and may wait at a token until it is told to go on."""

    def __init__(self, model: WriterModel, at: Callable[[int, int], None] = lambda round_, step: None) -> None:
        """`at(round, step)` is called before each token."""
        self._model, self._at = model, at
        self.rounds: list[list[Sequence[int]]] = []

    def complete(self, prompts: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
        return self._model.complete(prompts, max_length)

    def write(self, prompts: Sequence[Sequence[int]], most: int, sampling: Sampling, step: Step) -> None:
        self.rounds.append(list(prompts))
        number, count = len(self.rounds), iter(range(10_000))

        def told(row: int, token: int | None) -> bool:
            self._at(number, next(count))
            return step(row, token)

        self._model.write(prompts, most, sampling, told)


class Client:
    """One text and what was told of it."""

    def __init__(self, generator: Generator, prompt: str, most: int = 1000, **fields: Any) -> None:
        (ids,) = generator.read(generator.worded([prompt]))
        self.ended: queue.Queue[FinishReason | Exception] = queue.Queue()
        self.pieces: list[str] = []
        room = generator.bundle.max_length - len(ids)
        given = {"sampling": Sampling(), "text": Text(generator.tokenizer), **fields}
        self.writing = Writing(ids, min(most, room), tell=self._tell, fail=self.ended.put, **given)

    def _tell(self, piece: str, reason: FinishReason | None) -> None:
        self.pieces.append(piece)
        if reason:
            self.ended.put(reason)

    def end(self) -> FinishReason | Exception:
        return self.ended.get(timeout=20)


def ids_of(clients: Sequence[Client]) -> list[list[int]]:
    assert all(client.end() in ("stop", "length") for client in clients)
    return [client.writing.written for client in clients]


def alone(generator: Generator, prompt: str) -> list[int]:
    (ids,) = generator.read(generator.worded([prompt]))
    return generator.writer.complete([ids], generator.bundle.max_length)[0]


@pytest.mark.parametrize(("largest", "tokens"), [(1, 1), (1, 7), (2, 3), (6, 1), (32, 16)])
def test_greedy_texts_in_rounds_are_those_written_in_one_go(generator: Generator, largest: int, tokens: int):
    model = Watched(generator.writer)
    rounds = Rounds(model, largest, tokens, 100)
    clients = [Client(generator, each) for each in PROMPTS]
    rounds.add([each.writing for each in clients])
    assert ids_of(clients) == [alone(generator, each) for each in PROMPTS]
    assert all(len(each) <= largest for each in model.rounds)
    assert len(model.rounds) > len(PROMPTS) / largest or largest >= len(PROMPTS)


def test_a_text_alone_is_written_in_one_round(generator: Generator):
    model = Watched(generator.writer)
    client = Client(generator, "refund")
    Rounds(model, 32, 4, 100).add([client.writing])
    assert ids_of([client]) == [alone(generator, "refund")]
    assert len(model.rounds) == 1


def test_a_short_text_does_not_wait_for_a_long_one(generator: Generator):
    began, go_on = threading.Event(), threading.Event()

    def at(round_: int, step: int) -> None:
        if (round_, step) == (1, 2):
            began.set()
            assert go_on.wait(20)

    model = Watched(generator.writer, at)
    rounds = Rounds(model, 32, 8, 100)
    long, short = Client(generator, "refund"), Client(generator, "cancel", most=5)
    rounds.add([long.writing])
    assert began.wait(20)
    rounds.add([short.writing])
    go_on.set()
    assert short.end() == "length"
    assert len(model.rounds[1]) == 2  # it joined the long one after its eight tokens
    assert model.rounds[1][1] == long.writing.ids[: len(long.writing.prompt) + 8]
    assert ids_of([long]) == [alone(generator, "refund")]


def test_texts_of_other_sampling_and_length_take_turns(generator: Generator):
    model = Watched(generator.writer)
    rounds = Rounds(model, 32, 5, 100)
    drawn = [Client(generator, each, sampling=Sampling(1.0, 5)) for each in ("refund", "cancel")]
    greedy = [Client(generator, each) for each in ("where", "where is it now and when will it come to me")]
    rounds.add([each.writing for each in (drawn[0], *greedy, drawn[1])])
    for each in (*drawn, *greedy):
        assert each.end() in ("stop", "length")
    first = [len(each) for each in model.rounds[0]]
    assert len(model.rounds[0]) == 2 and max(first) - min(first) <= 16
    assert [each.writing.written for each in greedy] == [
        alone(generator, text) for text in ("where", "where is it now and when will it come to me")
    ]


def test_who_goes_away_frees_the_place_at_the_next_token(generator: Generator):
    leaving = Client(generator, "refund")
    counts: list[int] = []

    def at(round_: int, step: int) -> None:
        counts.append(step)
        if step == 3:
            leaving.writing.left = True

    model = Watched(generator.writer, at)
    rounds = Rounds(model, 1, 50, 100)
    waiting = Client(generator, "cancel")
    rounds.add([leaving.writing, waiting.writing])
    assert ids_of([waiting]) == [alone(generator, "cancel")]
    assert len(leaving.writing.written) == 3
    assert counts[:5] == [0, 1, 2, 3, 0] and leaving.ended.empty()


def test_who_went_away_while_it_waited_is_not_written(generator: Generator):
    began, go_on = threading.Event(), threading.Event()

    def at(round_: int, step: int) -> None:
        began.set()
        assert go_on.wait(20)

    model = Watched(generator.writer, at)
    rounds = Rounds(model, 1, 50, queue=2)
    first, gone, last = (Client(generator, each, most=3) for each in ("refund", "cancel", "now"))
    rounds.add([first.writing])
    assert began.wait(20)
    rounds.add([gone.writing])
    gone.writing.left = True
    rounds.add([last.writing])
    go_on.set()
    assert last.end() == "length"
    assert len(model.rounds) == 2 and not gone.writing.written


def test_no_more_texts_wait_than_may(generator: Generator):
    began, go_on = threading.Event(), threading.Event()

    def at(round_: int, step: int) -> None:
        began.set()
        assert go_on.wait(20)

    rounds = Rounds(Watched(generator.writer, at), 1, 50, queue=2)
    clients = [Client(generator, "refund", most=2) for _ in range(4)]
    rounds.add([clients[0].writing])
    assert began.wait(20)
    with pytest.raises(QueueFull):
        rounds.add([each.writing for each in clients[1:]])
    rounds.add([each.writing for each in clients[1:3]])
    with pytest.raises(QueueFull):
        rounds.add([clients[3].writing])
    go_on.set()
    assert [each.end() for each in clients[:3]] == ["length"] * 3
    assert not clients[3].writing.written


def test_an_error_of_the_model_reaches_who_waits_and_no_other(generator: Generator):
    def at(round_: int, step: int) -> None:
        if round_ == 1 and step == 2:
            raise MemoryError

    rounds = Rounds(Watched(generator.writer, at), 1, 50, 100)
    broken, whole = Client(generator, "refund"), Client(generator, "cancel")
    rounds.add([broken.writing, whole.writing])
    assert isinstance(broken.end(), MemoryError)
    assert ids_of([whole]) == [alone(generator, "cancel")]


def test_a_model_that_does_not_get_on_is_seen(generator: Generator):
    began, go_on = threading.Event(), threading.Event()

    def at(round_: int, step: int) -> None:
        began.set()
        assert go_on.wait(20)

    rounds = Rounds(Watched(generator.writer, at), 1, 50, 100)
    assert rounds.running_s() == 0
    client = Client(generator, "refund", most=2)
    rounds.add([client.writing])
    assert began.wait(20) and rounds.running_s() > 0
    go_on.set()
    assert client.end() == "length"


def test_a_model_that_nobody_holds_any_more_is_let_go(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", seed=3)
    generator = load_generator(tmp_path / "bundle")
    rounds, client = Rounds(generator.writer, 1, 4, 4), Client(generator, "refund")
    rounds.add([client.writing])
    assert client.end() == "length"
    thread, model = rounds._thread, weakref.ref(generator.writer)
    del rounds, generator, client
    thread.shutdown()
    del thread
    assert model() is None


HOLDS = """
import queue, sys
from serving.generator import load_generator
from serving.pieces import Text
from serving.rounds import Rounds, Writing
from serving.runtimes import Sampling

generator = load_generator(sys.argv[1])
rounds, ends = Rounds(generator.writer, 1, 4, 4), queue.Queue()
text = Text(generator.tokenizer)
rounds.add([Writing([1, 2, 3], 9, Sampling(), text, lambda piece, reason: reason and ends.put(reason))])
print(ends.get(timeout=20))
"""


LETS_GO = """
import sys, threading
from serving.generator import load_generator
from serving.pieces import Text
from serving.rounds import Rounds, Writing
from serving.runtimes import Sampling

for _ in range(50):
    generator, ended = load_generator(sys.argv[1]), threading.Event()
    rounds, text = Rounds(generator.writer, 1, 4, 4), Text(generator.tokenizer)
    rounds.add([Writing([1, 2, 3], 3, Sampling(), text, lambda piece, reason: reason and ended.set())])
    del generator, rounds
    assert ended.wait(20)
"""


def test_a_model_that_is_let_go_while_its_last_text_ends_aborts_nothing(tmp_path: Path):
    """As after a swap. A thread of the library must not be the last to hold the model, which waits for that thread."""
    write_tiny_decoder(tmp_path / "bundle", seed=3)
    command = [sys.executable, "-c", LETS_GO, str(tmp_path / "bundle")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_holds_a_model_to_its_end_ends_well(tmp_path: Path):
    """Without care it is aborted (exit code 134) in about every second run."""
    write_tiny_decoder(tmp_path / "bundle", seed=3)
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "bundle")]
    for _ in range(4):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "length\n", "")
