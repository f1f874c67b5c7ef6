"""How far an exported file answers as the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from jobs.compression.rows import logits, open_file
from jobs.compression.workplace import Workplace
from jobs.data.feeds import spread
from jobs.models import decoder
from jobs.models.decoder import Decoder
from serving.generator import completions
from serving.runtimes.ctranslate2 import open_folder

FLOAT, FLOAT_TEXTS, INT8 = 0.999, 0.95, 0.98  # least share of rows, where the recipe does not say
TEXTS = {8: 0.8, 4: 0.4}  # the same of texts, by the bits of a weight
ROWS = 1000  # validation rows at most
PROMPTS = 32  # of those, that a decoder and its file complete


class Parity(NamedTuple):
    """Over the validation rows there are."""

    rows: int
    same: float  # share with the same label, or the same text to its end
    difference: float | None = None  # the largest of a logit


Compare = Callable[[Path, str], Parity]  # of a file, computed in a precision


def comparison(model: nn.Module, workplace: Workplace) -> Compare | None:
    """What holds files to `model`, asked once; None where no rows were prepared and any answer will do.

    Raises `JobError` where there are none and `export.parity` asks for more.
    """
    return _of_texts(model, workplace) if isinstance(model, Decoder) else _of_labels(model, workplace)


def least(workplace: Workplace, is_float: bool) -> float:
    """The share of rows on which a file must answer as the model."""
    given = workplace.recipe.export.parity
    if given is not None:
        return given
    if workplace.recipe.task == "classify":
        return FLOAT if is_float else INT8
    return FLOAT_TEXTS if is_float else TEXTS[workplace.bits]


def _limited(workplace: Workplace) -> bool:
    return least(workplace, is_float=True) > 0


def _of_labels(model: nn.Module, workplace: Workplace) -> Compare | None:
    examples = workplace.validation(_limited(workplace))
    if examples is None:
        return None
    rows = workplace.fed(examples, ROWS)
    expected_NC = logits(model, rows)

    def compare(file: Path, precision: str) -> Parity:
        found_NC = logits(open_file(file, precision), rows)
        same = float((found_NC.argmax(1) == expected_NC.argmax(1)).mean())
        return Parity(len(rows), same, float(np.abs(found_NC - expected_NC).max()))

    return compare


def _of_texts(model: Decoder, workplace: Workplace) -> Compare | None:
    prompts, longest = _prompts(workplace), workplace.reference.max_length
    if not prompts:
        return None
    expected = decoder.complete(model.eval(), prompts, longest, decoder.end_of(str(workplace.student)))

    def compare(file: Path, precision: str) -> Parity:
        found = completions(open_folder(file, precision, 1), prompts, longest)
        return Parity(len(prompts), float(np.mean([a == b for a, b in zip(found, expected, strict=True)])))

    return compare


def _prompts(workplace: Workplace) -> list[list[int]]:
    """Token ids of some validation rows, up to where their completion starts."""
    examples: Any = workplace.validation(_limited(workplace))
    if examples is None:
        return []
    chosen = spread(len(examples), PROMPTS)
    return [
        examples.ids[start : start + int((examples.types[start:end] == 0).sum())].tolist()
        for start, end in zip(examples.offsets[chosen], examples.offsets[chosen + 1], strict=True)
    ]
