"""A causal transformer over items: SASRec (Kang and McAuley 2018, arXiv 1808.09781) that scores the whole catalogue.

Two things differ. Items of one basket have one position, as their order says nothing. And what a customer has already
is scored by how often and how long ago, too, as far as the history asks for it: what was bought before is bought again,
and a table of vectors alone hardly learns to copy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "slimcart_items"
OLDEST = 32  # baskets ago, and all that is older
BEGIN = 0  # stands before every history, so that an empty one has a vector; item n is n + 1


class ItemSizes(NamedTuple):
    """Sizes of a `NextItems`."""

    items: int
    hidden: int = 64
    layers: int = 2
    heads: int = 2
    max_length: int = 200  # events that are seen, and baskets that are told apart
    dropout: float = 0.2


class NextItems(nn.Module):
    """Scores of all items as the next ones, at chosen places of histories."""

    def __init__(self, sizes: ItemSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.items = nn.Embedding(sizes.items + 1, sizes.hidden)
        self.positions = nn.Embedding(sizes.max_length + 1, sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList(_layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.hidden)
        self.bias = nn.Parameter(torch.zeros(sizes.items))
        self.repeat = nn.Linear(sizes.hidden, 1)
        self.age = nn.Parameter(torch.zeros(OLDEST + 1))
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=sizes.hidden**-0.5)

    def forward(self, input_ids: Tensor, position_ids: Tensor, ends: Tensor) -> Tensor:
        """Logits [N, I] at the N places of `ends` [B, L], in their order, of numbers and positions [B, L].

        A place sees what stands before it in its row; padding stands after a history and is no end.
        """
        hidden_NH = self.vectors(input_ids, position_ids, ends)
        row_N, place_N = ends.nonzero(as_tuple=True)
        return self.scores(hidden_NH, input_ids[row_N], position_ids[row_N], place_N)

    def vectors(self, input_ids: Tensor, position_ids: Tensor, ends: Tensor) -> Tensor:
        """What the model knows of a customer at each end, [N, H]; see `forward`."""
        return self.hidden(input_ids, position_ids)[ends]

    def hidden(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """The vectors of all places, [B, L, H]."""
        hidden_BLH = self.dropout(self.items(input_ids) + self.positions(position_ids))
        length, device = input_ids.shape[1], input_ids.device
        mask_LL = torch.full((length, length), float("-inf"), device=device, dtype=hidden_BLH.dtype).triu(1)
        for layer in self.layers:
            hidden_BLH = layer(hidden_BLH, src_mask=mask_LL, is_causal=True)
        return self.norm(hidden_BLH)

    def scores(self, hidden_NH: Tensor, ids_NL: Tensor, positions_NL: Tensor, place_N: Tensor) -> Tensor:
        """Logits [N, I] of the vectors at one place of each of N rows."""
        counts_NI = self._counts(ids_NL, positions_NL, place_N)
        weight_N1 = F.softplus(self.repeat(hidden_NH))
        return hidden_NH @ self.items.weight[1:].T + self.bias + weight_N1 * torch.log1p(counts_NI)

    def _counts(self, ids_NL: Tensor, positions_NL: Tensor, place_N: Tensor) -> Tensor:
        """How often each item stands at or before a place, [N, I]; an event counts by its age, at first as one."""
        seen_NL = torch.arange(ids_NL.shape[1], device=ids_NL.device) <= place_N.unsqueeze(1)
        age_NL = (positions_NL.gather(1, place_N.unsqueeze(1)) - positions_NL).clamp(0, OLDEST)
        worth_NL = self.age.exp()[age_NL] * seen_NL
        counts_NI = torch.zeros(ids_NL.shape[0], self.sizes.items + 1, device=ids_NL.device, dtype=worth_NL.dtype)
        return counts_NI.scatter_add(1, ids_NL, worth_NL)[:, 1:]


def _layer(sizes: ItemSizes) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        sizes.hidden, sizes.heads, 4 * sizes.hidden, sizes.dropout, "gelu", batch_first=True, norm_first=True
    )


def save(model: NextItems, folder: Path) -> None:
    """Write sizes and float32 weights, for `load`."""
    from safetensors.torch import save_file

    config = {"model_type": MODEL_TYPE, **model.sizes._asdict()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {name: each.detach().to("cpu", torch.float32).contiguous() for name, each in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def load(folder: Path) -> NextItems:
    """The model that `save` wrote, in eval mode."""
    from safetensors.torch import load_file

    config = json.loads((folder / CONFIG).read_bytes())
    model = NextItems(ItemSizes(**{name: config[name] for name in ItemSizes._fields}))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval()
