"""A model of next items as one ONNX graph that answers with a ranked list: what leaves it is a few items, not a score
for each of the catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cluster.session import JobError
from jobs.compression.export.onnx import trace
from jobs.models.items import NextItems
from jobs.tasks.behave.purchase_head import CLOCKS, PurchaseHead

INPUTS = ("input_ids", "position_ids", "lengths", "exclude")
OUTPUTS = ("items", "probabilities")
CLOCK, PURCHASE = "clock", "purchase"  # input and output of a graph with a head
SAMPLE = (2, 5, 3)  # rows, events with `BEGIN`, and excluded items of the traced example; all free afterwards
COMPARED = ((1, 1, 1), (3, 17, 4))  # the same
TOLERANCE = 1e-5  # of a probability


class RankedItems(nn.Module):
    """The first items of each history, the likeliest first, and the probability of a purchase where there is a head."""

    def __init__(self, model: NextItems, listed: int, head: PurchaseHead | None = None) -> None:
        """`listed`: items of a list; of a smaller catalogue all of them."""
        super().__init__()
        self.model, self.listed = model, min(listed, model.sizes.items)
        self.purchase = None if head is None else nn.Linear(CLOCKS + model.sizes.hidden, 1)
        if head is not None and self.purchase is not None:
            self.purchase.weight.data = torch.tensor(head.weight_F[None], dtype=torch.float32)
            self.purchase.bias.data = torch.tensor([head.bias], dtype=torch.float32)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what goes in."""
        return INPUTS if self.purchase is None else (*INPUTS, CLOCK)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return OUTPUTS if self.purchase is None else (*OUTPUTS, PURCHASE)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        lengths: Tensor,
        exclude: Tensor,
        clock: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(numbers of items, their probabilities) [B, K] after the first `lengths` [B] places of [B, L].

        Items `exclude` [B, E], as in `input_ids`, with 0 to fill up, have probability 0 and stand last. With a head
        also the probability of a purchase, [B], by `clock` [B, 3], see `purchase_head.inputs`.
        """
        place_B = lengths - 1
        hidden_BLH = self.model.hidden(input_ids, position_ids)
        hidden_BH = hidden_BLH.gather(1, place_B.view(-1, 1, 1).expand(-1, 1, hidden_BLH.shape[2])).squeeze(1)
        logits_BI = self.model.scores(hidden_BH, input_ids, position_ids, place_B)
        barred_BI = torch.zeros(input_ids.shape[0], self.model.sizes.items + 1).scatter(1, exclude, float("-inf"))[
            :, 1:
        ]
        found = (logits_BI + barred_BI).softmax(-1).topk(self.listed, dim=-1)
        if self.purchase is None or clock is None:
            return found.indices, found.values
        return found.indices, found.values, self.purchase(torch.cat([clock, hidden_BH], dim=1)).squeeze(1).sigmoid()


def export_ranked(model: NextItems, listed: int, file: Path, head: PurchaseHead | None = None) -> None:
    """Write `model` as one ONNX file, see `RankedItems`. Raises `JobError` where the file does not answer like it."""
    module = RankedItems(model.eval(), listed, head).eval()
    example = _example(module, *SAMPLE)
    batch, excluded = torch.export.Dim("batch"), torch.export.Dim("excluded")
    length = torch.export.Dim("length", max=model.sizes.max_length + 1)
    free = {
        "input_ids": {0: batch, 1: length},
        "position_ids": {0: batch, 1: length},
        "lengths": {0: batch},
        "exclude": {0: batch, 1: excluded},
        CLOCK: {0: batch},
    }
    trace(module, example, {name: free[name] for name in module.inputs}, module.outputs, file)
    difference = largest_difference(module, file)
    if not difference <= TOLERANCE:  # NaN is a difference
        raise JobError(
            f"the exported file differs from the model by {difference:.2g} in a probability; at most {TOLERANCE}"
        )


@torch.no_grad()
def largest_difference(module: RankedItems, file: Path) -> float:
    """Largest difference of a probability between `module` and `file`; items of equal ones may change places."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    everything = RankedItems(module.model, module.model.sizes.items).eval()
    worst = 0.0
    for rows, length, excluded in COMPARED:
        feed = _example(module, rows, min(length, module.model.sizes.max_length + 1), excluded)
        found = session.run(None, {name: each.numpy() for name, each in feed.items()})
        expected = module(**feed)
        order_BI, probability_BI = everything(**{name: feed[name] for name in INPUTS})
        said_BK = (
            torch.zeros_like(probability_BI).scatter(1, order_BI, probability_BI).gather(1, torch.tensor(found[0]))
        )
        pairs = [(said_BK, found[1]), *zip(expected[1:], found[1:], strict=True)]
        worst = max(worst, *(float(np.abs(mine.numpy() - theirs).max()) for mine, theirs in pairs))
    return worst


def _example(module: RankedItems, rows: int, length: int, excluded: int) -> dict[str, Tensor]:
    """Any histories, the first of full length."""
    random, most = torch.Generator().manual_seed(0), module.model.sizes.items + 1
    ids = torch.randint(1, most, (rows, length), generator=random)
    ids[:, 0] = 0
    lengths = torch.randint(1, length + 1, (rows,), generator=random)
    lengths[0] = length
    example = {
        "input_ids": ids,
        "position_ids": torch.arange(length).repeat(rows, 1),
        "lengths": lengths,
        "exclude": torch.randint(0, most, (rows, excluded), generator=random),
    }
    return example if module.purchase is None else example | {CLOCK: torch.rand(rows, CLOCKS, generator=random)}
