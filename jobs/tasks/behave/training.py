"""Training of models of next items on histories, by the project's loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.engine import Batch, Layers, Loss, gather
from configs.loader import UsageError
from configs.schema.distillation import DistillationSpec
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from configs.schema.recipe import Recipe
from jobs.data.batches import global_batches, shard
from jobs.data.prepared import Examples, Prepared
from jobs.models import items
from jobs.models.item_student import item_student
from jobs.models.items import ItemSizes, NextItems
from jobs.tasks.behave.examples import Example, Numbered, collate, examples
from jobs.tasks.behave.losses import distill_next_items_loss, next_items_loss
from jobs.tasks.behave.metrics import CUTS, METRIC, ranking, values
from jobs.training.outputs import TokenOutputs
from jobs.training.task import EVALUATION_TOKENS, my_rows
from serving.inputs import cut

INPUTS = ("input_ids", "position_ids", "ends")


class Behave:
    """See `TrainingTask`. A row is a part of a history; the loss of a batch is the sum over the ends at which purchases
    are asked for, divided by their number."""

    inputs = INPUTS
    ranked = METRIC

    def __init__(self, prepared: Prepared, teacher_outputs: Path | None, pool_outputs: Path | None = None) -> None:
        assert pool_outputs is None  # histories are not made out of others
        self._sizes = ItemSizes(prepared.manifest["items"], max_length=prepared.manifest["max_length"])
        self._train = parts_of(prepared.examples("train"), self._sizes.max_length)
        self._validation = parts_of(prepared.examples("validation"), self._sizes.max_length)
        self._teacher = None if teacher_outputs is None else TokenOutputs.read(teacher_outputs, "train")
        self.lengths = np.array([len(each.numbers) for each in self._train])
        self._ends = np.cumsum([0, *(len(each.targets) for each in self._train)])  # before each row

    def teacher(self, recipe: Recipe) -> NextItems:
        """A new model of the sizes `teacher.new` for the items of the rows."""
        new = recipe.teacher.new
        sizes = self._sizes._replace(hidden=new.hidden, layers=new.layers, heads=new.heads)
        return NextItems(sizes._replace(dropout=recipe.teacher.dropout or 0.0))

    def student(self, teacher: Path, recipe: Recipe, start: Path | None = None) -> NextItems:
        """A student of some of the teacher's layers, a narrower one, or the model in `start`."""
        if start is not None:
            return items.load(start)
        return item_student(items.load(teacher), recipe.student.layers, recipe.student.hidden)

    def result(self, model: nn.Module) -> nn.Module:
        """The whole model."""
        return model

    def shrink_token_table(self, model: nn.Module) -> None:
        """Nothing: every item may be the next one."""

    def restore_token_table(self, model: nn.Module) -> None:
        """Nothing: no item was left out."""

    def look_at(self, model: nn.Module, role: str) -> None:
        """Nothing: the model is the project's own."""

    def layers(self, model: nn.Module) -> Layers:
        """Refused: all layers need to know which places are ends."""
        raise UsageError("engine.pipeline_stages: no pipeline for models of next items; set it to 1")

    def loss(self, model: nn.Module, spec: OptimizerSpec) -> Loss:
        """Cross-entropy over all items; a student's loss adds divergences from the teacher's ranked lists."""
        if isinstance(spec, DistillationSpec):
            return lambda logits_NI, batch: distill_next_items_loss(logits_NI, batch, spec)
        return lambda logits_NI, batch: next_items_loss(logits_NI, batch, spec.label_smoothing)

    def epoch(self, seed: int, epoch: int, engine: EngineSpec) -> list[np.ndarray]:
        """Rows of like length together."""
        return global_batches(self.lengths, seed, epoch, engine.tokens_per_batch)

    def parts(self, batch: np.ndarray, rank: int, workers: int, parts: int) -> tuple[list[Batch], float]:
        """Padded to the longest row of the global batch; the loss is divided by the ends that are asked."""
        length, count = int(self.lengths[batch].max()), -(-len(batch) // (workers * parts))
        micro = []
        for mine in shard(batch, rank, workers, parts):
            part = collate([self._train[row] for row in mine], length, count)
            if self._teacher is not None:
                part |= self._taught(mine)
            micro.append(part)
        return micro, float((self._ends[batch + 1] - self._ends[batch]).sum())

    def _taught(self, rows: np.ndarray) -> Batch:
        """The teacher's ranked lists at the ends of some rows: `teacher_ids`, `teacher_log_probs` [N, K]."""
        assert self._teacher is not None
        ends = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*self._ends[row : row + 2]) for row in rows)])
        ids_NK = self._teacher.ids.values_PD[ends].astype(np.int64)
        log_probs_NK = self._teacher.log_probs.values_PD[ends].astype(np.float32)
        return {"teacher_ids": torch.from_numpy(ids_NK), "teacher_log_probs": torch.from_numpy(log_probs_NK)}

    def evaluate(self, model: Any, device: torch.device) -> dict[str, float]:
        """NDCG and hit rate of the validation questions among the items that are known, and the mean log-likelihood."""
        mine = [self._validation[row] for row in my_rows(len(self._validation))]
        names = [METRIC, f"hr_{min(CUTS)}"]
        sums = np.zeros(len(names) + 2)
        for chosen in cut([len(each.numbers) for each in mine], EVALUATION_TOKENS):
            part = [mine[index] for index in chosen]
            batch = {name: each.to(device) for name, each in collate(part).items()}
            logits_NI = model(**{name: batch[name] for name in INPUTS})
            wanted = [items for each in part for items in each.targets.values()]
            said = [
                ranking("", score_I, each, len(each))
                for score_I, each in zip(logits_NI.float().cpu().numpy(), wanted, strict=True)
            ]
            found = values(said)
            likelihood = -next_items_loss(logits_NI, batch).sum().item()
            sums += [*(found[name].sum() for name in names), likelihood, len(said)]
        totals = np.sum(gather(sums.tolist()), axis=0)
        return dict(zip([*names, "log_likelihood"], (totals[:-1] / totals[-1]).tolist(), strict=True))


def parts_of(stored: Examples, max_length: int) -> list[Example]:
    """The parts of all stored histories, in order: their ends, one after the other, are those of the histories."""
    rows = zip(stored.offsets[:-1], stored.offsets[1:], strict=True)
    histories = (Numbered(stored.ids[start:stop], stored.types[start:stop]) for start, stop in rows)
    return [part for history in histories for part in examples(history, max_length)]
