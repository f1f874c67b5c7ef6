"""Judges a decoder under compression: by the tokens that it would choose, and by the texts of its file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.compression.checks.agreement import Compare, Parity, compared_rows
from jobs.compression.checks.metric import ANSWERS, JUDGED, StepMetric
from jobs.compression.logits import cores
from jobs.compression.step_context import StepContext
from jobs.data.batches import NO_TARGET, collate_packs
from jobs.data.feeds import Feed, longest_of, spread
from jobs.data.prepared import Examples
from jobs.models import decoder
from jobs.models.decoder import Decoder
from serving.generator import completions
from serving.inputs import TOKENS_PER_BATCH, cut
from serving.runtimes.ctranslate2 import open_file, open_generator

if TYPE_CHECKING:
    from torch import nn

TEXTS = 32  # most rows that answers are taken from
PROMPTS = 32  # most validation rows that a decoder and its file complete
FLOAT = 0.95  # default least share of equal texts
FEW_BITS = {8: 0.8, 4: 0.4}  # default least share of equal texts, by the bits of a weight


def token_accuracy(model: nn.Module | Path, examples: Examples, most: int) -> float:
    """Share of the tokens to generate that a decoder finds the likeliest after those before, in at most `most` rows."""
    right, tokens = 0, 0
    for logits_NV, target_N in token_logits(model, examples, most):
        right += int((logits_NV.argmax(1) == target_N).sum())
        tokens += len(target_N)
    return right / max(1, tokens)


def token_logits(model: nn.Module | Path, examples: Examples, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits [N, V] of a decoder, or of its file, at the tokens [N] to generate, in batches of at most `most` rows."""
    rows = spread(len(examples), most)
    answer = _of_folder(model) if isinstance(model, Path) else _of_decoder(model)
    for batch in cut(examples.lengths[rows].tolist(), TOKENS_PER_BATCH):
        chosen = rows[batch]
        tensors = collate_packs(examples, [chosen[[each]] for each in range(len(chosen))], longest_of(examples, chosen))
        arrays = {name: each.numpy() for name, each in tensors.items()}
        wanted_BL = arrays["target"] != NO_TARGET
        yield answer(arrays, examples.lengths[chosen])[wanted_BL], arrays["target"][wanted_BL]


def _of_decoder(model: nn.Module) -> Callable[[Feed, np.ndarray], np.ndarray]:
    """(batch of `collate_packs`, lengths of its rows) -> logits [B, L, V]."""
    import torch

    def answer(batch: Feed, _: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            ids_BL, positions_BL = (torch.from_numpy(batch[name]) for name in ("input_ids", "position_ids"))
            return model(ids_BL, positions_BL).float().numpy()

    model.eval()
    return answer


def _of_folder(folder: Path) -> Callable[[Feed, np.ndarray], np.ndarray]:
    """As `_of_decoder`, for a folder of CTranslate2."""
    generator = open_generator(folder, "f32", cores())

    def answer(batch: Feed, lengths_B: np.ndarray) -> np.ndarray:
        rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], lengths_B, strict=True)]
        return np.asarray(generator.forward_batch(rows))

    return answer


def agreement(model: Decoder, context: StepContext) -> Compare | None:
    """Compares the texts of files with those of `model`; see `jobs.compression.checks.agreement.comparison`."""
    prompts, longest = _prompts(context), context.reference.max_length
    if not prompts:
        return None
    expected = decoder.complete(model.eval(), prompts, longest, decoder.end_of(str(context.student)))

    def compare(file: Path, precision: str) -> Parity:
        actual = completions(open_file(file, precision, 1), prompts, longest)
        return Parity(len(prompts), float(np.mean([a == b for a, b in zip(actual, expected, strict=True)])))

    return compare


def _prompts(context: StepContext) -> list[list[int]]:
    """Token ids of some validation rows, up to where their completion starts."""
    examples: Any = compared_rows(context)
    if examples is None:
        return []
    chosen = spread(len(examples), PROMPTS)
    return [
        examples.ids[start : start + int((examples.types[start:end] == 0).sum())].tolist()
        for start, end in zip(examples.offsets[chosen], examples.offsets[chosen + 1], strict=True)
    ]


def of_tokens(examples: Examples) -> StepMetric:
    """The metric of a decoder: its accuracy at the tokens to generate."""

    def answers(model: nn.Module | Path) -> np.ndarray:
        logits_NV = np.concatenate([logits_NV for logits_NV, _ in token_logits(model, examples, TEXTS)])
        return logits_NV[spread(len(logits_NV), ANSWERS)]

    return StepMetric(
        "token accuracy",
        min(JUDGED, len(examples)),
        functools.partial(token_accuracy, examples=examples, most=JUDGED),
        answers,
    )


def step_metric(context: StepContext, examples: Examples) -> StepMetric:
    """The tokens that the decoder would choose: completing so many prompts would take longer than the step."""
    return of_tokens(examples)


def least_agreement(context: StepContext, is_float: bool, competing: bool) -> float:
    """A file in few bits always has to agree with its model."""
    return FLOAT if is_float else FEW_BITS[context.bits]
