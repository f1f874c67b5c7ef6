"""Labels for texts: a classifier's loaded bundle and its predictions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # see serving.forms

from serving.bundle import Bundle
from serving.inputs import TOKENS_PER_BATCH, Input, Reading, Row, checked, cut, reading, unknown_id
from serving.redaction import redactor
from serving.runtimes import ClassifierModel, TextModel

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding, Tokenizer


PADDING = 8  # tokens: where a batch has more of them, two calls take less (OpenVINO, int8 and float32, one core)


class Details(TypedDict, total=False):
    """What was read of an input, where asked for."""

    unknown: Annotated[float, Field(description="share of the tokens that the tokenizer does not know")]
    cut: Annotated[bool, Field(description="whether the input is longer than the model reads")]
    ms: Annotated[float, Field(description="the model's time, for all inputs that were answered together")]


DETAILS = frozenset(Details.__annotations__)


class Prediction(Details):
    """The best label with its probability, and what else was asked for."""

    label: str
    score: Annotated[float, Field(description="its probability")]
    scores: NotRequired[Annotated[dict[str, float], Field(description="the probability of every label")]]


class Classifier:
    """A loaded bundle: inputs -> probabilities or predictions. One thread at a time gives the best latency."""

    def __init__(
        self,
        bundle: Bundle,
        model: ClassifierModel | TextModel,
        tokenizer: Tokenizer,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        padding: float = PADDING,
    ) -> None:
        self.bundle = bundle
        self._model = model
        self._tokenizer = tokenizer
        self._tokens_per_batch, self._padding = tokens_per_batch, padding
        self._pad_id = pad_id(tokenizer)
        self._redact = redactor(bundle.redact)
        tokenizer.no_padding()
        tokenizer.enable_truncation(bundle.max_length)

    def rows(self, inputs: Sequence[Input]) -> list[Row]:
        """`inputs` in the tokenizer's form. A wrong input raises `InputError` naming the index."""
        return checked(inputs, self.bundle.pairs, self.bundle.attributes, self._redact)

    def scores(self, inputs: Sequence[Input]) -> np.ndarray:
        """Probabilities, float32 [N, C], in the order of `inputs`. Raises `InputError`."""
        return softmax(self.logits(inputs))

    def logits(self, inputs: Sequence[Input]) -> np.ndarray:
        """Logits of the bundle's own model, in a cascade the second, divided by the temperature: float32 [N, C]."""
        import numpy as np

        rows = self.rows(inputs)
        if isinstance(self._model, TextModel):
            return self._finite(self._model.of_texts(rows)) / self.bundle.temperature
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(rows)
        logits_NC = np.empty((len(encodings), len(self.bundle.labels)), dtype=np.float32)
        lengths = [max(1, len(each)) for each in encodings]
        for chosen in cut(lengths, self._tokens_per_batch, self._padding):
            logits_NC[chosen] = self._logits(self._model, [encodings[index] for index in chosen])
        return logits_NC / self.bundle.temperature

    def readings(self, inputs: Sequence[Input]) -> list[Reading]:
        """Counts of each input's tokens, in order; in a cascade by the tokenizer of the model that answers."""
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

        # A text without any token is one token of padding, here as in training: softmax over nothing is NaN.
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


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that rows are filled up with."""
    if tokenizer.padding:
        return tokenizer.padding["pad_id"]
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((each for each in known if each is not None), 0)


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Probabilities [B, C]."""
    import numpy as np

    shifted_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return shifted_BC / shifted_BC.sum(axis=1, keepdims=True)
