"""A small model of a config: what can be exported is asked of it, before the whole model is trained."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from jobs.models.layers import has_own_sizes, keep_layers

ROWS = 256  # of the token table, and as many more as engines that want multiples would miss
MULTIPLE = 64
WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
WIDE = 64
DIFFERENCE = 1e-3  # of a score from the model's, as a share of the largest: 1e-4 is rounding


def small(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy with few layers, one of each kind at least, and few tokens; what shapes attention stays as it is."""
    changed: Any = copy.deepcopy(config)
    if has_own_sizes(changed):
        return changed
    kinds = getattr(changed, "layer_types", None) or []
    fewer = max([2, *(kinds.index(kind) + 1 for kind in set(kinds))])
    if fewer < changed.num_hidden_layers:
        keep_layers(changed, range(fewer))
    for name in WIDTHS:
        if name in vars(changed) and (getattr(changed, name) or WIDE + 1) > WIDE:
            setattr(changed, name, WIDE)
    if changed.vocab_size > ROWS + MULTIPLE:
        changed.vocab_size = ROWS + changed.vocab_size % MULTIPLE
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        number = getattr(changed, name, None)
        if isinstance(number, list) or (number or 0) >= changed.vocab_size:
            setattr(changed, name, 0)
    return changed
