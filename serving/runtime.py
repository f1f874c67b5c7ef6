"""Answer from a bundle in plain Python: no Ray, no torch. Also the command for edge devices.

    python -m serving.runtime <bundle> [--threads N] [--scores]

reads one input a line from stdin (text; for bundles of pairs a JSON object with `text` and `text_pair`) and answers
each with one line of JSON. Exit 2 with one line on stderr where the bundle or a line is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NotRequired, TextIO, TypedDict

from serving.bundle import Bundle, BundleError, read_bundle

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

TOKENS_PER_BATCH = 2048
Row = str | tuple[str, str]
Input = str | tuple[str, str] | Mapping[str, str]


class InputError(ValueError):
    """An input is refused; the message names its index and the reason, never its text."""


class Prediction(TypedDict):
    """The best label with its probability; `scores` holds the probability of every label where asked for."""

    label: str
    score: float
    scores: NotRequired[dict[str, float]]


class Classifier:
    """A loaded bundle: inputs -> probabilities or predictions. One thread at a time gives the best latency."""

    def __init__(
        self, bundle: Bundle, session: InferenceSession, tokenizer: Tokenizer, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        self.bundle = bundle
        self._session = session
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
        self._pad_id = pad_id(tokenizer)
        tokenizer.no_padding()
        tokenizer.enable_truncation(bundle.max_length)

    def rows(self, inputs: Sequence[Input]) -> list[Row]:
        """`inputs` in the tokenizer's form. A wrong one raises `InputError` naming the index."""
        return [_row(index, each, self.bundle.pairs) for index, each in enumerate(inputs)]

    def scores(self, inputs: Sequence[Input]) -> np.ndarray:
        """Probabilities, float32 [N, C], in the order of `inputs`. Raises `InputError`."""
        import numpy as np

        encodings: list[Encoding] = self._tokenizer.encode_batch(self.rows(inputs))
        scores_NC = np.empty((len(encodings), len(self.bundle.labels)), dtype=np.float32)
        lengths = [len(each) for each in encodings]
        for chosen in cut(lengths, self._tokens_per_batch):
            logits_BC = self._logits([encodings[index] for index in chosen])
            scores_NC[chosen] = _softmax(logits_BC / self.bundle.temperature)
        return scores_NC

    def predict(self, inputs: Sequence[Input], all_scores: bool = False) -> list[Prediction]:
        """One prediction for each input, in order. Raises `InputError`."""
        labels = self.bundle.labels
        scores_NC = self.scores(inputs)
        predictions: list[Prediction] = []
        for best, scores_C in zip(scores_NC.argmax(axis=1).tolist(), scores_NC.tolist(), strict=True):
            prediction: Prediction = {"label": labels[best], "score": scores_C[best]}
            if all_scores:
                prediction["scores"] = dict(zip(labels, scores_C, strict=True))
            predictions.append(prediction)
        return predictions

    def _logits(self, encodings: list[Encoding]) -> np.ndarray:
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
        logits_BC = np.asarray(self._session.run(["logits"], feed)[0], dtype=np.float32)
        if not np.isfinite(logits_BC).all():
            raise RuntimeError(f"the model of bundle {self.bundle.name!r} answered NaN or infinity")
        return logits_BC


def load_bundle(folder: Path | str, threads: int = 1, tokens_per_batch: int = TOKENS_PER_BATCH) -> Classifier:
    """Verify the bundle and load it on the CPU; `threads` run one matrix product. Raises `BundleError`."""
    bundle = read_servable(Path(folder))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a second thread pool would fight over the cores
    return _load(Path(folder), bundle, threads, tokens_per_batch)


def read_servable(folder: Path) -> Bundle:
    """The verified bundle, if this runtime can run it. Raises `BundleError`."""
    bundle = read_bundle(folder)
    if bundle.runtime == "torch":
        raise BundleError(
            f"{folder}: a torch bundle is a reference and is not served; export it with python -m jobs.compress"
        )
    return bundle


def cut(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `tokens_per_batch` tokens with its padding (or one input)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens_per_batch:  # this input is the longest so far
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


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
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads {options.threads}: give 1 or more")
    try:
        answer(load_bundle(options.bundle, options.threads), sys.stdin.buffer, sys.stdout, options.scores)
    except (BundleError, ValueError) as error:
        print(_one_line(error), file=sys.stderr)
        return 2
    return 0


def answer(classifier: Classifier, lines: BinaryIO, out: TextIO, all_scores: bool = False) -> None:
    """One JSON line on `out` for each line read, flushed at once. A refused one raises `ValueError` with its number."""
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
            (prediction,) = classifier.predict([json.loads(text) if classifier.bundle.pairs else text], all_scores)
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number}: byte {error.start} is not UTF-8") from None
        except json.JSONDecodeError:
            raise ValueError(f"line {number}: not JSON; write an object with text and text_pair") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        out.write(json.dumps(prediction, ensure_ascii=False) + "\n")
        out.flush()


def _load(folder: Path, bundle: Bundle, threads: int, tokens_per_batch: int) -> Classifier:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / bundle.tokenizer))
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise BundleError(f"{folder / bundle.tokenizer}: {_one_line(error)}") from None
    parts = (bundle, _open_session(folder, bundle, threads), tokenizer, tokens_per_batch)
    classifier = Classifier(*parts)
    _try_once(folder, classifier)
    if bundle.first is None:
        return classifier
    from serving.cascade import Cascade

    return Cascade(_load(folder, bundle.alone(bundle.first), threads, tokens_per_batch), *parts)


def _open_session(folder: Path, bundle: Bundle, threads: int) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Idle threads sleep: replicas, the proxy and training share the cores, and a spinning thread takes one whole.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(folder / bundle.model), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no public base class
        raise BundleError(f"{folder / bundle.model}: {_one_line(error)}") from None
    wanted = sorted(each.name for each in session.get_inputs())
    if wanted != sorted(bundle.inputs):
        raise BundleError(f"{folder / bundle.model}: inputs {wanted}, the manifest says {sorted(bundle.inputs)}")
    if "logits" not in (each.name for each in session.get_outputs()):
        raise BundleError(f"{folder / bundle.model}: has no output named 'logits'")
    return session


def _try_once(folder: Path, classifier: Classifier) -> None:
    """A model that cannot answer is refused when it is loaded, not by its first customer."""
    try:
        classifier.scores([("a", "b") if classifier.bundle.pairs else "a"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no public base class
        raise BundleError(f"{folder / classifier.bundle.model}: cannot answer: {_one_line(error)}") from None


def _row(index: int, value: Any, pairs: bool) -> Row:
    parts: Any = value if pairs else (value,)
    if pairs and isinstance(value, Mapping) and value.keys() == {"text", "text_pair"}:
        parts = (value["text"], value["text_pair"])
    match parts:
        case (str() as text,) if not pairs:
            return _valid(index, text)
        case (str() as text, str() as second) if pairs:
            return _valid(index, text), _valid(index, second)
    wanted = "an object with the texts text and text_pair" if pairs else "a text"
    raise InputError(f"input {index} is not {wanted}")


def _valid(index: int, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"input {index} holds a lone surrogate, which is not valid text") from None
    return text


def _softmax(logits_BC: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return shifted_BC / shifted_BC.sum(axis=1, keepdims=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
