"""Answer from a bundle in plain Python: no Ray, no torch. Also the command for edge devices.

    python -m serving.runtime <bundle> [--threads N] [--scores] [--details]

reads one input a line from stdin and answers each with one line of JSON: a label, a reply, or the text that a decoder
writes, piece by piece as it comes; one that is checked comes whole, with whether it is `held` back and the `reason`. A
line is a text; for bundles of pairs a JSON object with `text` and `text_pair`; for bundles of attributes a JSON object
of them, a JSON list of [name, value], or their text, `name: value; name: value`; for bundles of replies also a JSON
object with the message as `input` and the values of placeholders as `fields`, for those of conversations one with
`messages`. Exit 2 with one line on stderr where the bundle or a line is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from configs import core_files
from configs.schema.tasks import TASKS, named
from serving.bundle import Bundle, BundleError, read_description
from serving.classifier import PADDING, Classifier
from serving.inputs import MESSAGES, TOKENS_PER_BATCH, Input
from serving.runtimes import one_line, open_bundle, open_verified

OPENS = "serving.runtime:load_bundle"  # its name in the records of tasks


def load_bundle(
    folder: Path | str, threads: int = 1, tokens_per_batch: int = TOKENS_PER_BATCH, padding: float = PADDING
) -> Classifier:
    """Verify a classifier's bundle and load it on the CPU; `threads` run one matrix product. Raises `BundleError`."""
    folder = Path(folder)
    opened = open_bundle(folder, OPENS, threads)
    first = opened.bundle.first
    parts = (opened.bundle, opened.model, opened.tokenizer, tokens_per_batch, padding)
    classifier = Classifier(*parts)
    _try_once(folder, classifier)
    if first is None:
        return classifier
    from serving.cascade import Cascade

    small = open_verified(folder, opened.bundle.alone(first), threads)
    first_classifier = Classifier(small.bundle, small.model, small.tokenizer, tokens_per_batch, padding)
    _try_once(folder, first_classifier)
    return Cascade(first_classifier, *parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.runtime", description="answer lines from stdin")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--threads", type=int, default=1, help="threads of one matrix product (default 1)")
    parser.add_argument("--scores", action="store_true", help="print the probability of every label")
    parser.add_argument(
        "--details", action="store_true", help="print the share of unknown tokens, whether a text was cut, and the time"
    )
    options = parser.parse_args(arguments)
    core_files.forbid()
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: give 1 or more")
    try:
        bundle = read_description(options.bundle)
        writes = not TASKS[bundle.task].labelled
        labels = not writes and bundle.kind is None
        if not labels and (options.scores or options.details):
            flag = "--scores" if options.scores else "--details"
            raise BundleError(f"{flag}: {options.bundle} writes texts and has no labels to score; leave it out")
        predictor = named(bundle.record.open)(options.bundle, options.threads)
        if writes and bundle.checked:
            say = partial(_label, predictor.checked)
        elif writes:
            say = partial(_write, predictor.write)
        else:
            fields = {"all_scores": options.scores, "details": options.details} if labels else {}
            say = partial(_label, partial(predictor.predict, **fields))
        answer(partial(say, sys.stdout), bundle, sys.stdin.buffer)
    except (BundleError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def answer(say: Callable[[Input], None], bundle: Bundle, lines: BinaryIO) -> None:
    """Have `say` answer the input of each line read. A refused line raises `ValueError` with its number."""
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            may_be = bundle.attributes or bundle.kind is not None or bundle.chat_template is not None
            structured = bundle.pairs or (may_be and text.lstrip().startswith(("{", "[")))
            say(json.loads(text) if structured else text)
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: byte {error.start} is not UTF-8") from None
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"line {number}: not JSON; write an object with {_wanted(bundle)}") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def _wanted(bundle: Bundle) -> str:
    """What an object of a line holds."""
    if bundle.pairs:
        return "text and text_pair"
    if bundle.attributes:
        return "the attributes"
    return "input and fields" if bundle.kind else MESSAGES


def _label(predict: Callable[[Sequence[Input]], Sequence[Mapping[str, Any]]], out: TextIO, given: Input) -> None:
    """One line of JSON, flushed at once."""
    (prediction,) = predict([given])
    out.write(json.dumps(prediction, ensure_ascii=False) + "\n")
    out.flush()


def _write(write: Callable[[Input, Callable[[str], None]], None], out: TextIO, given: Input) -> None:
    """The same of a text, each piece of it flushed at once."""
    parts = iter(['{"text": "'])

    def tell(piece: str) -> None:
        out.write(next(parts, "") + json.dumps(piece, ensure_ascii=False)[1:-1])
        out.flush()

    write(given, tell)
    out.write(next(parts, "") + '"}\n')
    out.flush()


def _try_once(folder: Path, classifier: Classifier) -> None:
    """Refuse a model that cannot answer when it is loaded, not at its first customer."""
    try:
        classifier.scores([("a", "b") if classifier.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{folder / classifier.bundle.model}: cannot answer: {one_line(error)}") from None


if __name__ == "__main__":
    sys.exit(main())
