"""The part of a token table that training needs.

An optimizer step touches every row of the table, gradient and moments included, but a data set uses few of them: the
messages of a shop use a tenth of MiniLM's 30,522 tokens, which are half of its weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from jobs.data.prepared import Examples
from jobs.models.encoder import EncoderClassifier


class UsedTokens:
    """A model's token table cut to the tokens of some rows, until `restore`; the other tokens stay as they are.

    Training is the same but for the weight decay of tokens that no row has.
    """

    def __init__(self, model: EncoderClassifier, *rows: Examples) -> None:
        """Change `model`, which takes ids of `renumbered` rows from now on; the lowest ids, up to padding's, stay."""
        table: Any = model.encoder.get_input_embeddings()
        self._all_VH = table.weight.detach().clone()
        padding = table.padding_idx
        fixed = np.arange(1 + (padding or 0))  # rows are padded with 0; RoBERTa counts positions by its padding id
        self._used = np.unique(np.concatenate([fixed, *(each.ids for each in rows)]))
        used_KH = self._all_VH[torch.from_numpy(self._used)]
        model.encoder.set_input_embeddings(nn.Embedding.from_pretrained(used_KH, freeze=False, padding_idx=padding))

    def renumbered(self, rows: Examples) -> Examples:
        """The rows with the cut table's ids for their tokens."""
        return replace(rows, ids=np.searchsorted(self._used, rows.ids).astype(rows.ids.dtype))

    def restore(self, model: EncoderClassifier) -> None:
        """Give `model` the whole table again, with the vectors that were learned."""
        table: Any = model.encoder.get_input_embeddings()
        whole_VH = self._all_VH.to(table.weight.device)
        whole_VH[torch.from_numpy(self._used).to(whole_VH.device)] = table.weight.detach().to(whole_VH.dtype)
        whole = nn.Embedding.from_pretrained(whole_VH, freeze=False, padding_idx=table.padding_idx)
        model.encoder.set_input_embeddings(whole)
