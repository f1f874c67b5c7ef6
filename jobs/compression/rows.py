"""Prepared rows as a served model meets them, and what a model under compression says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.data.batches import NO_TARGET, collate_packs
from jobs.data.feeds import Feed, Rows, longest_of, spread
from jobs.data.prepared import Examples
from jobs.tasks import classify
from serving.inputs import TOKENS_PER_BATCH, cut
from serving.runtimes import ClassifierModel
from serving.runtimes.ctranslate2 import open_generator
from serving.runtimes.onnxruntime import OnnxModel, open_session
from serving.runtimes.openvino import OpenvinoModel, compile_file

if TYPE_CHECKING:
    from torch import nn


def logits(model: nn.Module | Path | ClassifierModel, rows: Rows) -> np.ndarray:
    """Logits [N, C] of a model, of an exported file, or of one that is open."""
    if isinstance(model, Path):
        model = open_file(model)
    answer = model.logits if isinstance(model, ClassifierModel) else _of_module(model)
    return np.concatenate([answer(feed) for feed in rows.feeds])


def open_file(file: Path, precision: str = "f32") -> ClassifierModel:
    """An exported classifier, on all cores of this process."""
    if file.suffix == ".xml":
        return OpenvinoModel(compile_file(file, precision, _cores()))
    return OnnxModel(open_session(file, _cores()))


def metric(model: nn.Module | Path, rows: Rows, name: str = classify.METRIC) -> float:
    """A metric of a classifier, or of an exported file of one."""
    return classify.metrics(logits(model, rows).argmax(1), rows.labels)[name]


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
        given = collate_packs(examples, [chosen[[each]] for each in range(len(chosen))], longest_of(examples, chosen))
        arrays = {name: each.numpy() for name, each in given.items()}
        wanted_BL = arrays["target"] != NO_TARGET
        yield answer(arrays, examples.lengths[chosen])[wanted_BL], arrays["target"][wanted_BL]


def _of_decoder(model: nn.Module) -> Callable[[Feed, np.ndarray], np.ndarray]:
    """(batch of `collate_packs`, lengths of its rows) -> logits [B, L, V]."""
    import torch

    def answer(given: Feed, _: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            ids_BL, positions_BL = (torch.from_numpy(given[name]) for name in ("input_ids", "position_ids"))
            return model(ids_BL, positions_BL).float().numpy()

    model.eval()
    return answer


def _of_folder(folder: Path) -> Callable[[Feed, np.ndarray], np.ndarray]:
    """The same of a folder of CTranslate2."""
    generator = open_generator(folder, "f32", _cores())

    def answer(given: Feed, lengths_B: np.ndarray) -> np.ndarray:
        rows = [ids[:length].tolist() for ids, length in zip(given["input_ids"], lengths_B, strict=True)]
        return np.asarray(generator.forward_batch(rows))

    return answer


def _cores() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_module(model: nn.Module) -> Callable[[Feed], np.ndarray]:
    import torch

    def answer(feed: Feed) -> np.ndarray:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()

    model.eval()
    return answer
