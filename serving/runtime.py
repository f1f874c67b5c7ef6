"""Answer from a bundle in plain Python: no Ray, no torch. Also the command for edge devices.

    python -m serving.runtime <bundle> [--threads N] [--scores] [--details]

reads one input a line from stdin and answers each with one line of JSON: a label, the text that a decoder writes, or a
reply. A line is a text; for bundles of pairs a JSON object with `text` and `text_pair`; for bundles of attributes a
JSON object of them, a JSON list of [name, value], or their text, `name: value; name: value`; for bundles of replies
also a JSON object with the message as `input` and the values of placeholders as `fields`. Exit 2 with one line on
stderr where the bundle or a line is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from configs.schema.tasks import TASKS, named
from serving.bundle import Bundle, BundleError, read_description
from serving.classifier import Classifier
from serving.inputs import TOKENS_PER_BATCH, Input
from serving.runtimes import one_line, open_bundle, open_verified

OPENS = "serving.runtime:load_bundle"  # its name in the records of tasks
Predict = Callable[[Sequence[Input]], Sequence[Mapping[str, Any]]]


def load_bundle(folder: Path | str, threads: int = 1, tokens_per_batch: int = TOKENS_PER_BATCH) -> Classifier:
    """Verify a classifier's bundle and load it on the CPU; `threads` run one matrix product. Raises `BundleError`."""
    folder = Path(folder)
    opened = open_bundle(folder, OPENS, threads)
    first = opened.bundle.first
    parts = (opened.bundle, opened.model, opened.tokenizer, tokens_per_batch)
    classifier = Classifier(*parts)
    _try_once(folder, classifier)
    if first is None:
        return classifier
    from serving.cascade import Cascade

    small = open_verified(folder, opened.bundle.alone(first), threads)
    first_classifier = Classifier(small.bundle, small.model, small.tokenizer, tokens_per_batch)
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
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: give 1 or more")
    try:
        bundle = read_description(options.bundle)
        labels = TASKS[bundle.task].labelled and bundle.kind is None
        fields = {"all_scores": options.scores, "details": options.details} if labels else {}
        if not labels and (options.scores or options.details):
            flag = "--scores" if options.scores else "--details"
            raise BundleError(f"{flag}: {options.bundle} writes texts and has no labels to score; leave it out")
        predict = partial(named(bundle.record.open)(options.bundle, options.threads).predict, **fields)
        answer(predict, bundle, sys.stdin.buffer, sys.stdout)
    except (BundleError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def answer(predict: Predict, bundle: Bundle, lines: BinaryIO, out: TextIO) -> None:
    """Write one JSON line for each line read, flushed at once. A refused line raises `ValueError` with its number."""
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            may_be = bundle.attributes or bundle.kind is not None
            structured = bundle.pairs or (may_be and text.lstrip().startswith(("{", "[")))
            (prediction,) = predict([json.loads(text) if structured else text])
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: byte {error.start} is not UTF-8") from None
        except (json.JSONDecodeError, RecursionError):
            wanted = (
                "text and text_pair" if bundle.pairs else "the attributes" if bundle.attributes else "input and fields"
            )
            raise ValueError(f"line {number}: not JSON; write an object with {wanted}") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        out.write(json.dumps(prediction, ensure_ascii=False) + "\n")
        out.flush()


def _try_once(folder: Path, classifier: Classifier) -> None:
    """Refuse a model that cannot answer when it is loaded, not at its first customer."""
    try:
        classifier.scores([("a", "b") if classifier.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{folder / classifier.bundle.model}: cannot answer: {one_line(error)}") from None


if __name__ == "__main__":
    sys.exit(main())
