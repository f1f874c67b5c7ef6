"""Answer from a bundle in plain Python: no Ray, no torch. Also the command for edge devices.

    python -m serving.runtime <bundle> [--threads N] [--scores] [--details]

reads one input a line from stdin and answers each with one line of JSON: a label, or of a decoder what it writes. A
line is a text; for bundles of pairs a JSON object with `text` and `text_pair`; for bundles of attributes a JSON object
of them, a JSON list of [name, value], or their text, `name: value; name: value`. Exit 2 with one line on stderr where
the bundle or a line is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NotRequired, TextIO, TypedDict

from serving.bundle import Bundle, BundleError, read_description
from serving.generator import load_generator
from serving.inputs import TOKENS_PER_BATCH, Input, Reading, Row, checked, cut, reading, unknown_id
from serving.runtimes import ClassifierModel, TextModel, one_line, open_bundle, open_verified

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding, Tokenizer

DETAILS = {"unknown", "cut", "ms"}  # of a prediction, where asked for
Predict = Callable[[Sequence[Input]], Sequence[Mapping[str, Any]]]


class Prediction(TypedDict):
    """The best label with its probability, and what else was asked for.

    `scores`: the probability of every label. Details: `unknown`, the share of tokens that the tokenizer does not know;
    `cut`, whether the input is longer than what the model reads; `ms`, what the model took for all inputs that were
    answered together.
    """

    label: str
    score: float
    scores: NotRequired[dict[str, float]]
    unknown: NotRequired[float]
    cut: NotRequired[bool]
    ms: NotRequired[float]


class Classifier:
    """A loaded bundle: inputs -> probabilities or predictions. One thread at a time gives the best latency."""

    def __init__(
        self,
        bundle: Bundle,
        model: ClassifierModel | TextModel,
        tokenizer: Tokenizer,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        self.bundle = bundle
        self._model = model
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
        self._pad_id = pad_id(tokenizer)
        tokenizer.no_padding()
        tokenizer.enable_truncation(bundle.max_length)

    def rows(self, inputs: Sequence[Input]) -> list[Row]:
        """`inputs` in the tokenizer's form. A wrong one raises `InputError` naming the index."""
        return checked(inputs, self.bundle.pairs, self.bundle.attributes)

    def scores(self, inputs: Sequence[Input]) -> np.ndarray:
        """Probabilities, float32 [N, C], in the order of `inputs`. Raises `InputError`."""
        return softmax(self.logits(inputs))

    def logits(self, inputs: Sequence[Input]) -> np.ndarray:
        """What the bundle's own model says, in a cascade the second, divided by the temperature, likewise."""
        import numpy as np

        rows = self.rows(inputs)
        if isinstance(self._model, TextModel):
            return self._finite(self._model.of_texts(rows)) / self.bundle.temperature
        encodings: list[Encoding] = self._tokenizer.encode_batch(rows)
        logits_NC = np.empty((len(encodings), len(self.bundle.labels)), dtype=np.float32)
        lengths = [len(each) for each in encodings]
        for chosen in cut(lengths, self._tokens_per_batch):
            logits_NC[chosen] = self._logits(self._model, [encodings[index] for index in chosen])
        return logits_NC / self.bundle.temperature

    def readings(self, inputs: Sequence[Input]) -> list[Reading]:
        """What the tokenizer makes of each input, in order; in a cascade that of the model which answers it."""
        return [reading(each, self._unknown_id) for each in self._tokenizer.encode_batch(self.rows(inputs))]

    @cached_property
    def _unknown_id(self) -> int | None:
        return unknown_id(self._tokenizer)

    def predict(self, inputs: Sequence[Input], all_scores: bool = False, details: bool = False) -> list[Prediction]:
        """One prediction for each input, in order. Raises `InputError`."""
        labels = self.bundle.labels
        began = time.perf_counter()
        scores_NC = self.scores(inputs)
        ms = 1e3 * (time.perf_counter() - began)
        predictions: list[Prediction] = []
        for best, scores_C in zip(scores_NC.argmax(axis=1).tolist(), scores_NC.tolist(), strict=True):
            prediction: Prediction = {"label": labels[best], "score": scores_C[best]}
            if all_scores:
                prediction["scores"] = dict(zip(labels, scores_C, strict=True))
            predictions.append(prediction)
        if details:
            for prediction, read in zip(predictions, self.readings(inputs), strict=True):
                prediction["unknown"], prediction["cut"], prediction["ms"] = read.unknown_share, read.cut, ms
        return predictions

    def _logits(self, model: ClassifierModel, encodings: list[Encoding]) -> np.ndarray:
        """float32 [B, C] of B encodings, padded on the right to the longest of them."""
        import numpy as np

        # An empty text without special tokens still attends to one padding token: softmax over nothing is NaN.
        shape = (len(encodings), max(1, *map(len, encodings)))
        feed = {name: np.zeros(shape, dtype=np.int64) for name in self.bundle.inputs}
        feed["input_ids"][:] = self._pad_id
        for row, encoding in enumerate(encodings):
            length = len(encoding)
            feed["input_ids"][row, :length] = encoding.ids
            if "attention_mask" in feed:
                feed["attention_mask"][row, : max(1, length)] = 1
            if "token_type_ids" in feed:
                feed["token_type_ids"][row, :length] = encoding.type_ids
        return self._finite(np.asarray(model.logits(feed), dtype=np.float32))

    def _finite(self, logits_BC: np.ndarray) -> np.ndarray:
        import numpy as np

        if not np.isfinite(logits_BC).all():
            raise RuntimeError(f"the model of bundle {self.bundle.name!r} answered NaN or infinity")
        return logits_BC


def load_bundle(folder: Path | str, threads: int = 1, tokens_per_batch: int = TOKENS_PER_BATCH) -> Classifier:
    """Verify a classifier's bundle and load it on the CPU; `threads` run one matrix product. Raises `BundleError`."""
    folder = Path(folder)
    opened = open_bundle(folder, "classify", threads)
    first = opened.bundle.first
    parts = (opened.bundle, opened.model, opened.tokenizer, tokens_per_batch)
    classifier = Classifier(*parts)
    _try_once(folder, classifier)
    if first is None:
        return classifier
    from serving.cascade import Cascade

    small = open_verified(folder, opened.bundle.alone(first), threads)
    asked_first = Classifier(small.bundle, small.model, small.tokenizer, tokens_per_batch)
    _try_once(folder, asked_first)
    return Cascade(asked_first, *parts)


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that rows are filled up with."""
    if tokenizer.padding:
        return tokenizer.padding["pad_id"]
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((each for each in known if each is not None), 0)


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
        if bundle.task == "classify":
            asked = {"all_scores": options.scores, "details": options.details}
            predict = partial(load_bundle(options.bundle, options.threads).predict, **asked)
        elif options.scores or options.details:
            flag = "--scores" if options.scores else "--details"
            raise BundleError(f"{flag}: {options.bundle} writes texts and has no labels to score; leave it out")
        else:
            predict = load_generator(options.bundle, options.threads).predict
        answer(predict, bundle, sys.stdin.buffer, sys.stdout)
    except (BundleError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def answer(predict: Predict, bundle: Bundle, lines: BinaryIO, out: TextIO) -> None:
    """One JSON line on `out` for each line read, flushed at once. A refused one raises `ValueError` with its number."""
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            structured = bundle.pairs or (bundle.attributes and text.lstrip().startswith(("{", "[")))
            (prediction,) = predict([json.loads(text) if structured else text])
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: byte {error.start} is not UTF-8") from None
        except (json.JSONDecodeError, RecursionError):
            wanted = "text and text_pair" if bundle.pairs else "the attributes"
            raise ValueError(f"line {number}: not JSON; write an object with {wanted}") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        out.write(json.dumps(prediction, ensure_ascii=False) + "\n")
        out.flush()


def _try_once(folder: Path, classifier: Classifier) -> None:
    """A model that cannot answer is refused when it is loaded, not by its first customer."""
    try:
        classifier.scores([("a", "b") if classifier.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - the runtimes' errors share no public base class
        raise BundleError(f"{folder / classifier.bundle.model}: cannot answer: {one_line(error)}") from None


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Probabilities [B, C]."""
    import numpy as np

    shifted_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return shifted_BC / shifted_BC.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
