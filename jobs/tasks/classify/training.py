"""Training of classifiers: encoders with a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cluster import engine
from cluster.engine import WEIGHT, Batch, Layers, Loss
from configs.loader import UsageError
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.data.batches import collate, global_batches, shard
from jobs.data.prepared import Examples, Prepared
from jobs.models import encoder
from jobs.models.encoder import INPUTS, EncoderClassifier
from jobs.models.hidden_states import HiddenStates, Observed, place, relation_width
from jobs.models.layers import has_own_sizes
from jobs.models.stages import encoder_layers
from jobs.models.student import encoder_student
from jobs.tasks.classify import metrics
from jobs.training.loss import balanced_weights, distill_loss, hidden_states_loss, label_loss
from jobs.training.outputs import Vectors, hidden_column, read_logits, relations_column
from jobs.training.task import EVALUATION_TOKENS, my_rows
from jobs.training.tokens import UsedTokens
from serving.inputs import cut


class Classify:
    """See `TrainingTask`."""

    inputs: tuple[str, ...] = INPUTS

    def __init__(self, prepared: Prepared, teacher_outputs: Path | None, pool_outputs: Path | None = None) -> None:
        self._record, self._classes = TASKS[prepared.manifest["task"]], prepared.labels
        self.ranked = self._record.metric
        self._train, self._validation = prepared.examples("train"), prepared.examples("validation")
        self._outputs = [each for each in (teacher_outputs, pool_outputs) if each is not None]
        self._teacher_NC = None if teacher_outputs is None else read_logits(teacher_outputs, "train")
        self._vectors: dict[str, list[Vectors]] = {}  # the teacher's, by name in a batch
        if prepared.pool is not None:
            assert self._teacher_NC is not None
            assert pool_outputs is not None
            self._train = Examples.joined(self._train, prepared.pool.examples("train"))
            self._teacher_NC = np.concatenate([self._teacher_NC, read_logits(pool_outputs, "train")])
        self.lengths = self._train.lengths
        self._tokens: UsedTokens | None = None

    def teacher(self, recipe: Recipe) -> EncoderClassifier:
        """A pretrained encoder with a new head."""
        return encoder.pretrained(recipe.teacher, self._classes)

    def student(self, teacher: Path, recipe: Recipe, start: Path | None = None) -> nn.Module:
        """A student of `recipe.student`, or from `start`; `Observed` where more than logits is compared."""
        taught, dropout = encoder.load(teacher), recipe.student.dropout
        student = encoder_student(taught, recipe.student) if start is None else encoder.load(start, dropout)
        if student.has_statistics:
            self.inputs = (*INPUTS, WEIGHT)
        ways = recipe.engine.tensor_parallel
        if ways > 1 and has_own_sizes(student.encoder.config):
            raise UsageError(f"engine.tensor_parallel: {ways}: layers of different size cannot be split alike; use 1")
        spec = recipe.distillation
        if not spec.hidden_objectives:
            return student
        config = taught.encoder.config
        if "relations" in spec.hidden_objectives:
            for model, layer in ((taught, spec.relation_layer), (student, -1)):
                if (width := relation_width(model, layer)) % spec.relation_heads:
                    raise UsageError(
                        f"distillation.relation_heads: {spec.relation_heads}: does not divide a width of {width}"
                    )
        self._read_vectors(spec, config.num_hidden_layers)
        layers = len(spec.hidden_layers) if "hidden" in spec.hidden_objectives else 0
        return Observed(
            student,
            layers,
            "cosine" in spec.hidden_objectives,
            "relations" in spec.hidden_objectives,
            config.hidden_size,
        )

    def _read_vectors(self, spec: DistillationSpec, count: int) -> None:
        columns = [
            hidden_column(place(layer, count, "hidden_layers")) for layer in spec.vectors_of(spec.hidden_objectives)
        ]
        hidden = len(columns)
        if "relations" in spec.hidden_objectives:
            columns.append(relations_column(place(spec.relation_layer, count, "relation_layer")))
        parts = [Vectors.read(folder, "train", columns) for folder in self._outputs]
        vectors = [Vectors.joined(*each) for each in zip(*parts, strict=True)]
        named = {"teacher_hidden": vectors[:hidden], "teacher_relations": vectors[hidden:]}
        self._vectors = {name: each for name, each in named.items() if each}

    def result(self, model: nn.Module) -> nn.Module:
        """The student alone."""
        return model.student if isinstance(model, Observed) else model

    def shrink_token_table(self, model: nn.Module) -> None:
        """Cut the token table, and renumber the rows to follow it, see `UsedTokens`."""
        classifier = self.result(model)
        assert isinstance(classifier, EncoderClassifier)
        self._tokens = UsedTokens(classifier, self._train, self._validation)
        self._train, self._validation = map(self._tokens.renumbered, (self._train, self._validation))

    def restore_token_table(self, model: nn.Module) -> None:
        """Undo `shrink_token_table`, where it was done."""
        classifier = self.result(model)
        assert isinstance(classifier, EncoderClassifier)
        if self._tokens:
            self._tokens.restore(classifier)

    def look_at(self, model: nn.Module, role: str) -> None:
        """Nothing: a row holds one text."""

    def layers(self, model: nn.Module) -> Layers:
        """Layers of the encoder and its head."""
        return encoder_layers(model)

    def loss(self, model: nn.Module, spec: OptimizerSpec) -> Loss:
        """Cross-entropy or squared error; a student's loss adds the differences from the teacher."""
        classifier = self.result(model)
        assert isinstance(classifier, EncoderClassifier)
        graded = not isinstance(classifier.classes, int)
        if graded and spec.label_smoothing:
            raise UsageError(f"label_smoothing={spec.label_smoothing:g}: a squared error to a grade has none; use 0")
        balanced = spec.class_weights == "balanced"
        weight_C = balanced_weights(self._train.labels, len(self._classes)) if balanced else None
        if not isinstance(spec, DistillationSpec):
            return lambda logits_BC, batch: label_loss(
                logits_BC, batch["label"], spec.label_smoothing, weight_C, graded
            )

        def of_logits(logits_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
            return distill_loss(logits_BC, batch["teacher_logits"], batch["label"], spec, weight_C, graded)

        def of_all(seen: HiddenStates, batch: Batch) -> torch.Tensor:
            # Hidden states that a phase does not compare get a gradient of zero, not none: AdamW would leave them out.
            seen_B = sum((each.flatten(1).sum(1) for each in seen.hidden), seen.logits_BC.sum(1))
            return of_logits(seen.logits_BC, batch) + hidden_states_loss(seen, batch, spec) + 0.0 * seen_B

        return of_all if isinstance(model, Observed) else of_logits

    def epoch(self, seed: int, epoch: int, engine: EngineSpec) -> list[np.ndarray]:
        """Global batches of rows of like length."""
        return global_batches(self.lengths, seed, epoch, engine.tokens_per_batch)

    def parts(self, batch: np.ndarray, rank: int, workers: int, parts: int) -> tuple[list[Batch], float]:
        """Micro-batches padded to the longest row of the global batch, whose number of rows divides the loss."""
        length = int(self.lengths[batch].max())
        count = -(-len(batch) // (workers * parts))
        micro = []
        for rows in shard(batch, rank, workers, parts):
            part = collate(self._train, rows, length, count)
            if self._teacher_NC is not None:
                logits = np.zeros((count, self._teacher_NC.shape[1]), dtype=np.float32)
                logits[: len(rows)] = self._teacher_NC[rows]
                part["teacher_logits"] = torch.from_numpy(logits)
            for name, vectors in self._vectors.items():
                padded = [torch.from_numpy(each.padded(rows, length, count)) for each in vectors]
                part[name] = torch.cat(padded, dim=-1)
            micro.append(part)
        return micro, len(batch)

    def evaluate(self, model: EncoderClassifier, device: torch.device) -> dict[str, float]:
        """What the task's record scores, in float32."""
        mine = my_rows(len(self._validation))
        gathered = engine.gather((mine, predict(model, self._validation, mine, device)))
        everywhere = np.empty(len(self._validation), dtype=np.int64)
        for rows, numbers in gathered:
            everywhere[rows] = numbers
        return metrics.of_classes(self._record, self._classes, everywhere, self._validation.labels)


def predict(model: EncoderClassifier, examples: Examples, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Class numbers of some rows, [len(rows)]."""
    predicted = np.empty(len(rows), dtype=np.int64)
    for chosen in cut(examples.lengths[rows].tolist(), EVALUATION_TOKENS):
        batch = collate(examples, rows[chosen], int(examples.lengths[rows[chosen]].max()))
        logits_BC = model(**{name: batch[name].to(device) for name in INPUTS})
        predicted[chosen] = logits_BC.argmax(-1).cpu().numpy()
    return predicted
