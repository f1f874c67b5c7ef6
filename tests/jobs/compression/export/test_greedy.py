"""Each family of decoders that is exported writes what it writes in transformers."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.compression.export.ctranslate2 import export_numbered
from jobs.models import decoder
from serving.runtimes.ctranslate2 import open_file
from tests.jobs.compression.export.test_small import LONG, TAKEN
from tests.jobs.models.test_narrow_decoder import WIDE, family

PROMPTS, LONGEST, LEAST = 200, 28, 0.95
GROUPED = {"llama, heads that share": ("llama", WIDE)}  # and are wider together than a token's vector
OPT = {"opt": ("opt", {"vocab_size": 264})}  # rows in a multiple of 8
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {**{kind: (kind, {}) for kind in TAKEN}, **OPT, **GROUPED}
FIRST = ("qwen3", *GROUPED)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else LONG) for name in FAMILIES])
def test_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path):
    kind, entries = FAMILIES[name]
    model = family(kind, tmp_path / "model", **entries)
    chance = np.random.default_rng(0)
    prompts = [chance.integers(1, model.vocabulary, length).tolist() for length in chance.integers(1, 13, PROMPTS)]
    prompts.sort(key=len)
    expected = decoder.complete(model, prompts, LONGEST, 0)
    exported = open_file(export_numbered(model, tmp_path), "f32", 1)
    written: list[list[int]] = []
    for _, alike in groupby(prompts, len):  # an answer's length is counted from its prompt's
        written += exported.complete(list(alike), LONGEST)
    same = np.mean([one == other for one, other in zip(written, expected, strict=True)])
    assert same >= LEAST
    assert len({tuple(text) for text in expected}) > PROMPTS / 4  # it says more than a word or two
