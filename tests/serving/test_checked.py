"""Texts that are checked before they go out, over HTTP."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from configs.schema.checks import ChecksSpec
from serving.bundle import CHECKS, BundleError
from serving.checks import Rules, Wording
from serving.endpoint import create_app
from serving.generator import load_generator
from serving.runtime import main
from serving.runtimes import Sampling
from serving.units import letters
from tests.serving.test_writing import PROMPTS, SCRIPT, ask
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.services import SERVICE, SPEC, answering, events, writer


def write_checked(folder: Path, script: bytes | None = None, wording: Wording | None = None, **asked: Any) -> Path:
    """A decoder of bytes, with checks."""
    rules = Rules(asked=ChecksSpec.model_validate({"enabled": True, **asked}), wording=wording or Wording())

    def fill(aside: Path) -> None:
        (aside / CHECKS).write_text(rules.model_dump_json())

    write_tiny_decoder(folder, script, seed=3, max_length=80, beside=fill, checked=True)
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Any]:
    """Makes the address of a service of a checked bundle."""
    with ExitStack() as stack:

        def serve(*given: Any, **asked: Any) -> str:
            model = writer(write_checked(tmp_path / "bundle", *given, **asked))
            return f"{stack.enter_context(answering(create_app(SERVICE, SPEC, lambda: model)))}/v1/{SERVICE}"

        yield serve


def test_a_text_without_a_fault_goes_out_as_without_checks(served: Any):
    (said,) = ask(served(SCRIPT.encode(), given=False, spelled=False), inputs=["order 7"])
    assert said == {"text": SCRIPT[len("order 7\n") :], "finish_reason": "stop", "held": False}


def test_a_text_that_fails_is_held_back_with_the_reason(served: Any):
    url = served(SCRIPT.encode(), given=True)
    (said,) = ask(url, inputs=["where is my order"])
    assert said == {
        "text": "",
        "finish_reason": "stop",
        "held": True,
        "reason": "a number is said that was not given; a name is said that was not given",
    }
    assert "42" not in json.dumps(said)


def test_no_piece_of_a_stream_goes_out_before_the_whole_is_checked(served: Any):
    url = served(SCRIPT.encode(), given=True)
    (event,) = events(requests.post(url, json={"inputs": ["where is my order"], "stream": True}, timeout=20))
    assert (event["text"], event["held"]) == ("", True)
    (event,) = events(requests.post(url, json={"inputs": ["order 42, STOP Danke"], "stream": True}, timeout=20))
    assert event["held"] == bool(event["text"] == "")


def test_a_held_text_is_a_filtered_one_in_openais_words(served: Any):
    body = {"model": SERVICE, "prompt": "where is my order", "max_tokens": 50}
    (choice,) = requests.post(f"{served(SCRIPT.encode())}/completions", json=body, timeout=20).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "content_filter")


def test_a_text_that_fails_is_written_again(tmp_path: Path):
    plain = load_generator(write_checked(tmp_path / "any", given=False))
    prompt, first = PROMPTS[3], plain.likeliest(PROMPTS[3])
    (ids,) = plain.read(plain.worded([prompt]))
    others = plain.written_again(ids, 80 - len(ids), Sampling()).texts
    size = next(count for each in others if (count := len(letters(each))) != len(letters(first)))
    wanted = {"given": False, "min_words": size, "max_words": size}
    again = load_generator(write_checked(tmp_path / "again", **wanted))
    once = load_generator(write_checked(tmp_path / "once", **wanted, candidates=1))
    assert once.predict([prompt]) == [{"text": first, "faults": ["length"]}]
    (best,) = again.predict([prompt])
    assert (len(letters(best["text"])), best.get("faults")) == (size, [])
    assert best["text"] in others


def test_a_bundle_without_its_checks_is_refused(tmp_path: Path):
    folder = write_checked(tmp_path / "whole")
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part" / CHECKS).unlink()
    with pytest.raises(BundleError, match=r"checks\.json"):
        load_generator(tmp_path / "part")


def test_the_command_says_that_a_text_is_held_back_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = write_checked(tmp_path / "bundle", SCRIPT.encode(), given=True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"where is my order\n")))
    assert main([str(folder)]) == 0
    reason = "a number is said that was not given; a name is said that was not given"
    assert json.loads(capsys.readouterr().out) == {"text": "", "held": True, "reason": reason}


def test_tokens_of_all_candidates_are_counted_as_openai_counts_those_of_best_of(tmp_path: Path):
    body = {"model": SERVICE, "prompt": "where is my order", "max_tokens": 50}
    counts = []
    for candidates in (1, 3):
        model = writer(write_checked(tmp_path / str(candidates), SCRIPT.encode(), candidates=candidates))
        with answering(create_app(SERVICE, SPEC, lambda model=model: model)) as address:
            usage = requests.post(f"{address}/v1/{SERVICE}/completions", json=body, timeout=20).json()["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        counts.append(usage["completion_tokens"])
    generator = load_generator(tmp_path / "3")
    (ids,) = generator.read(generator.worded(["where is my order"]))
    again = generator.written_again(ids, 50, Sampling())
    assert (len(again.texts), counts[1]) == (3, counts[0] + again.tokens)
