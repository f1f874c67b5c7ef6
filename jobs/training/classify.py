"""Training of classifiers: encoders with a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cluster import engine
from cluster.engine import Batch, Layers, Loss
from cluster.spec import EngineSpec
from configs.loader import UsageError
from jobs.data.batches import collate, global_batches, shard
from jobs.data.prepared import Examples, Prepared
from jobs.models import encoder
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.models.spec import OptimizerSpec
from jobs.models.stages import encoder_layers
from jobs.models.student import encoder_student
from jobs.recipe import Recipe
from jobs.tasks import classify
from jobs.training.loss import balanced_weights, distill_loss, label_loss
from jobs.training.outputs import read_logits
from jobs.training.spec import DistillationSpec
from jobs.training.task import EVALUATION_TOKENS, my_rows
from serving.runtime import cut


class Classify:
    """See `TrainingTask`."""

    inputs = INPUTS
    ranked = classify.METRIC

    def __init__(self, prepared: Prepared, teacher_outputs: Path | None) -> None:
        self._classes = prepared.labels
        self._train, self._validation = prepared.examples("train"), prepared.examples("validation")
        self._teacher_NC = None if teacher_outputs is None else read_logits(teacher_outputs, "train")
        self.lengths = self._train.lengths

    def teacher(self, recipe: Recipe) -> EncoderClassifier:
        """Pretrained, with a new head."""
        return encoder.pretrained(recipe.teacher, self._classes)

    def student(self, teacher: Path, recipe: Recipe) -> EncoderClassifier:
        """Of the kind in `recipe.student`."""
        return encoder_student(encoder.load(teacher), recipe.student)

    def layers(self, model: nn.Module) -> Layers:
        """Of the encoder and its head."""
        return encoder_layers(model)

    def loss(self, model: nn.Module, spec: OptimizerSpec) -> Loss:
        """Cross-entropy or squared error; for students with the KL from the teacher."""
        assert isinstance(model, EncoderClassifier)
        graded = not isinstance(model.classes, int)
        if graded and spec.label_smoothing:
            raise UsageError(f"label_smoothing={spec.label_smoothing:g}: a squared error to a grade has none; use 0")
        balanced = spec.class_weights == "balanced"
        weight_C = balanced_weights(self._train.labels, len(self._classes)) if balanced else None
        if isinstance(spec, DistillationSpec):
            return lambda logits_BC, batch: distill_loss(
                logits_BC, batch["teacher_logits"], batch["label"], spec, weight_C, graded
            )
        return lambda logits_BC, batch: label_loss(logits_BC, batch["label"], spec.label_smoothing, weight_C, graded)

    def epoch(self, seed: int, epoch: int, engine: EngineSpec) -> list[np.ndarray]:
        """Rows of like length together."""
        return global_batches(self.lengths, seed, epoch, engine.tokens_per_batch)

    def parts(self, batch: np.ndarray, rank: int, workers: int, parts: int) -> tuple[list[Batch], float]:
        """Padded to the longest row of the global batch; the loss is divided by its rows."""
        length = int(self.lengths[batch].max())
        count = -(-len(batch) // (workers * parts))
        micro = []
        for rows in shard(batch, rank, workers, parts):
            part = collate(self._train, rows, length, count)
            if self._teacher_NC is not None:
                logits = np.zeros((count, self._teacher_NC.shape[1]), dtype=np.float32)
                logits[: len(rows)] = self._teacher_NC[rows]
                part["teacher_logits"] = torch.from_numpy(logits)
            micro.append(part)
        return micro, len(batch)

    def evaluate(self, model: EncoderClassifier, device: torch.device) -> dict[str, float]:
        """Accuracy and macro-F1, in float32."""
        mine = my_rows(len(self._validation))
        gathered = engine.gather((mine, predict(model, self._validation, mine, device)))
        everywhere = np.empty(len(self._validation), dtype=np.int64)
        for rows, numbers in gathered:
            everywhere[rows] = numbers
        return classify.metrics(everywhere, self._validation.labels)


def predict(model: EncoderClassifier, examples: Examples, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Class numbers of some rows, [len(rows)]."""
    predicted = np.empty(len(rows), dtype=np.int64)
    for chosen in cut(examples.lengths[rows].tolist(), EVALUATION_TOKENS):
        batch = collate(examples, rows[chosen], int(examples.lengths[rows[chosen]].max()))
        logits_BC = model(**{name: batch[name].to(device) for name in INPUTS})
        predicted[chosen] = logits_BC.argmax(-1).cpu().numpy()
    return predicted
