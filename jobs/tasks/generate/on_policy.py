"""On-policy distillation: a student learns where its own texts lead, from a teacher that reads them at once.

Agarwal et al. 2024 (GKD, arXiv 2306.13649, algorithm 1), with batches in place of single texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cluster.engine import Batch, gather
from configs.schema.engine import Precision
from configs.schema.recipe import Recipe
from jobs.data.batches import collate_packs, shard
from jobs.data.prepared import TOKENIZER, Examples, Prepared
from jobs.models import decoder
from jobs.models.decoder import INPUTS, Decoder
from jobs.models.reference import read_tokenizer
from jobs.training.loss import at_targets

CHOICE = 1  # part of the seeds of what is chosen, beside those of what is written
TEXT = 2


class OwnTexts:
    """Some global batches, with completions that the student draws from its own distribution (temperature 1).

    Which batches, and the numbers that a row's text is drawn by, depend on the recipe's seed, the epoch and the row
    alone: the same for every number of workers, and after an interruption.
    """

    def __init__(self, prepared: Prepared, recipe: Recipe, teacher: Path, device: torch.device) -> None:
        """`teacher` is its bundle folder; every worker holds it in float32."""
        self._rows, self._manifest = prepared.examples("train"), prepared.manifest
        self._share, self._seed = recipe.distillation.on_policy, recipe.seed
        self._precision: Precision = recipe.engine.precision
        self._teacher = decoder.load(teacher).to(device).requires_grad_(False)
        self._known = 1 + max(read_tokenizer(prepared.folder / TOKENIZER).get_vocab().values())
        self._device = device
        self._written, self._seconds = 0, 0.0

    def chooses(self, epoch: int, number: int) -> bool:
        """Whether the student writes the texts of a batch of an epoch; batches are counted from 1."""
        return bool(np.random.default_rng((self._seed, epoch, number, CHOICE)).random() < self._share)

    def parts(
        self, model: nn.Module, batch: np.ndarray, epoch: int, rank: int, workers: int, parts: int
    ) -> tuple[list[Batch], float]:
        """As `TrainingTask.parts`, with the texts of `model` and `teacher_logits` [N, V] at their tokens. All call it.

        Every text has a row of its own.
        """
        assert isinstance(model, Decoder)
        started, was_training = time.monotonic(), model.training
        with torch.no_grad(), self._computing():
            mine = shard(batch, rank, workers, parts)
            texts = self._texts(model.eval(), np.concatenate(mine), epoch)
            model.train(was_training)
            ends = np.cumsum([0, *map(len, mine)])
            micro = [self._taught(texts, np.arange(*ends[part : part + 2])) for part in range(parts)]
        size = sum(gather(int(texts.targets.sum())))
        self._written += 1
        self._seconds += time.monotonic() - started
        return micro, float(size)

    def facts(self, epoch: int, batches: int) -> dict[str, float]:
        """Share of the batches of an epoch whose texts the student wrote, and what each such one takes more, seconds.

        The latter is the mean since this process began.
        """
        chosen = sum(self.chooses(epoch, number) for number in range(1, batches + 1))
        seconds = self._seconds / max(1, self._written)
        return {"on_policy_share": chosen / batches, "on_policy_seconds": seconds}

    def _texts(self, model: Decoder, rows: np.ndarray, epoch: int) -> Examples:
        """The prompts of `rows`, each with what the student writes; the end of a text is a token of it."""
        end, longest = self._manifest["end"], self._manifest["max_length"]
        prompts = [self._prompt(row) for row in rows]
        draws = [np.random.default_rng((self._seed, epoch, int(row), TEXT)).random(longest) for row in rows]
        written = decoder.complete(model, prompts, longest, end, draws=decoder.Draws(draws, self._known))
        texts = [
            [*before, *after, *([end] if len(before) + len(after) < longest else [])]
            for before, after in zip(prompts, written, strict=True)
        ]
        types = [np.arange(len(text)) >= len(before) for text, before in zip(texts, prompts, strict=True)]
        return Examples(
            ids=_joined(texts, np.int32),
            types=_joined(types, np.int8),
            offsets=np.cumsum([0, *map(len, texts)]),
            labels=np.zeros(len(texts), np.int64),
        )

    def _prompt(self, row: int) -> list[int]:
        places = slice(*self._rows.offsets[row : row + 2])
        return self._rows.ids[places][self._rows.types[places] == 0].tolist()

    def _taught(self, texts: Examples, rows: np.ndarray) -> Batch:
        """Tensors of some texts, or of a blank one, with what the teacher says of them."""
        length = int(texts.lengths[rows].max()) if len(rows) else 1
        batch = collate_packs(texts, [rows[[place]] for place in range(len(rows))], length)
        logits_BLV = self._teacher(**{name: batch[name].to(self._device) for name in INPUTS})
        teacher_NV, _ = at_targets(logits_BLV, batch["target"].to(self._device))
        return batch | {"teacher_logits": teacher_NV[:, : self._known]}

    def _computing(self) -> torch.autocast:
        """Matrix products as in training."""
        half = torch.float16 if self._precision == "fp16" else torch.bfloat16
        return torch.autocast(self._device.type, half, enabled=self._precision != "fp32")


def _joined(parts: Sequence[Sequence[int] | np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0), *parts]).astype(kind)
