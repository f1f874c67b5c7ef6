"""Training of causal language models on completions."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from cluster import engine
from cluster.engine import Batch, Layers, Loss
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from configs.schema.recipe import Recipe
from jobs.data.batches import collate_packs, global_batches, pack, packed_batches, shard
from jobs.data.prepared import TOKENIZER, Prepared
from jobs.models import decoder
from jobs.models.decoder import INPUTS, LEAKS, Decoder
from jobs.models.stages import decoder_layers
from jobs.models.student import decoder_student, pretrained_decoder
from jobs.training.loss import at_targets, completion_loss, distill_completion_loss, own_completion_loss
from jobs.training.outputs import TokenOutputs
from jobs.training.task import EVALUATION_TOKENS, my_rows
from serving.inputs import cut

log = logging.getLogger(__name__)


class Generate:
    """See `TrainingTask`. The loss of a batch is the sum over the tokens to generate, divided by their number."""

    inputs = INPUTS
    ranked = "log_likelihood"

    def __init__(self, prepared: Prepared, teacher_outputs: Path | None, pool_outputs: Path | None = None) -> None:
        assert pool_outputs is None  # recipes that ask for a pool are refused
        self._manifest = prepared.manifest
        self._tokenizer = prepared.folder / TOKENIZER
        self._train, self._validation = prepared.examples("train"), prepared.examples("validation")
        self._teacher = None if teacher_outputs is None else TokenOutputs.read(teacher_outputs, "train")
        self.lengths, self._targets = self._train.lengths, self._train.targets
        self._packs: bool = prepared.manifest["packing"]

    def teacher(self, recipe: Recipe) -> Decoder:
        """A pretrained decoder, or one with new weights for the tokenizer of the rows."""
        vocabulary = Tokenizer.from_file(str(self._tokenizer)).get_vocab_size()
        return decoder.pretrained(recipe.teacher, vocabulary, self._manifest["max_length"], self._manifest["end"])

    def student(self, teacher: Path, recipe: Recipe, start: Path | None = None) -> Decoder:
        """A student of some of the teacher's layers, another pretrained model, or the model in `start`."""
        if start is not None:
            return decoder.load(start)
        if recipe.student.model is not None:
            return pretrained_decoder(recipe.student, self._manifest["max_length"])
        return decoder_student(decoder.load(teacher), recipe.student)

    def result(self, model: nn.Module) -> nn.Module:
        """The whole model."""
        return model

    def shrink_token_table(self, model: nn.Module) -> None:
        """Nothing: a decoder may choose any token."""

    def restore_token_table(self, model: nn.Module) -> None:
        """Nothing: no token was left out."""

    def look_at(self, model: nn.Module, role: str) -> None:
        """Give every text a row of its own where texts in one row would not stand alone for this model."""
        if not self._packs:
            return
        assert isinstance(model, Decoder)
        leak = max(engine.gather(decoder.leak(model)))  # all workers have to make the same batches
        if leak >= LEAKS:
            self._packs = False
            log.warning(
                "%s: data.packing: true, but texts in one row change each other's logits in a %s model (by %.2g of the "
                "largest): every text gets a row of its own",
                *(role, model.lm.config.model_type, leak),
            )

    def layers(self, model: nn.Module) -> Layers:
        """Layers of the decoder."""
        return decoder_layers(model)

    def loss(self, model: nn.Module, spec: OptimizerSpec) -> Loss:
        """Cross-entropy of the tokens to generate; a student's loss adds divergences from the teacher."""
        if isinstance(spec, DistillationSpec):
            return lambda logits_BLV, batch: _distillation_loss(logits_BLV, batch, spec)
        return lambda logits_BLV, batch: completion_loss(logits_BLV, batch["target"], spec.label_smoothing)

    def epoch(self, seed: int, epoch: int, engine: EngineSpec) -> list[np.ndarray]:
        """Rows of any length where they are packed, else rows of like length together."""
        cut_up = packed_batches if self._packs else global_batches
        return cut_up(self.lengths, seed, epoch, engine.tokens_per_batch)

    def parts(self, batch: np.ndarray, rank: int, workers: int, parts: int) -> tuple[list[Batch], float]:
        """Padded to the longest pack of the global batch; the loss is divided by the tokens to generate."""
        capacity = self._manifest["max_length"] if self._packs else 0
        packs = [batch[rows] for rows in pack(self.lengths[batch], capacity)]
        length = max(int(self.lengths[rows].sum()) for rows in packs)
        count = -(-len(packs) // (workers * parts))
        micro = []
        for mine in shard(packs, rank, workers, parts):
            part = collate_packs(self._train, mine, length, count)
            if self._teacher is not None:
                part |= self._teacher.beside(part["target"], mine)
            micro.append(part)
        return micro, float(self._targets[batch].sum())

    def evaluate(self, model: Decoder, device: torch.device) -> dict[str, float]:
        """Mean log-likelihood of a token to generate, perplexity, and the share of tokens ranked likeliest."""
        rows = my_rows(len(self._validation))
        likelihood, right, tokens = 0.0, 0, 0
        for chosen in cut(self._validation.lengths[rows].tolist(), EVALUATION_TOKENS):
            packs = [rows[[each]] for each in chosen]
            batch = collate_packs(self._validation, packs, int(self._validation.lengths[rows[chosen]].max()))
            logits_NV, target_N = at_targets(
                model(**{name: batch[name].to(device) for name in INPUTS}), batch["target"].to(device)
            )
            likelihood -= F.cross_entropy(logits_NV, target_N, reduction="sum").item()
            right += int((logits_NV.argmax(-1) == target_N).sum())
            tokens += len(target_N)
        likelihood, right, tokens = (
            sum(each) for each in zip(*engine.gather((likelihood, right, tokens)), strict=True)
        )
        mean = likelihood / tokens
        return {"log_likelihood": mean, "perplexity": math.exp(min(-mean, 700.0)), "token_accuracy": right / tokens}


def _distillation_loss(logits_BLV: torch.Tensor, batch: Batch, spec: DistillationSpec) -> torch.Tensor:
    """Of rows with the teacher's stored outputs, or of the student's own texts with the logits of a teacher at work."""
    if (teacher_NV := batch.get("teacher_logits")) is not None:
        return own_completion_loss(logits_BLV, batch["target"], teacher_NV, spec)
    return distill_completion_loss(logits_BLV, batch["target"], batch["teacher_ids"], batch["teacher_log_probs"], spec)
