"""Texts share rows only where the model at hand scores each as if it stood alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from cluster import engine
from configs.schema.engine import EngineSpec
from configs.schema.models import OptimizerSpec
from jobs.data.prepared import Examples
from jobs.models.decoder import LEAKS, Decoder, from_config, leak
from jobs.tasks.generate.training import Generate

VOCABULARY, LENGTH = 60, 24
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
LEAKING: dict[str, dict[str, Any]] = {
    "opt": SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 40, "pad_token_id": 1},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "pad_token_id": 0},
    "falcon": SMALL | {"max_position_embeddings": 40},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 40},
}
MASKING: dict[str, dict[str, Any]] = {
    "gpt2": GPT,
    "qwen2": SMALL | {"num_key_value_heads": 2},
    "gpt_neox": SMALL,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
}


def model_of(kind: str) -> Decoder:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return from_config(AutoConfig.for_model(kind, vocab_size=VOCABULARY, **ends, **(LEAKING | MASKING)[kind]))


def task(packing: bool = True) -> Generate:
    """Fourteen rows of 4 to 10 tokens, the last half of each to be generated."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(4, 11, 14)
    rows = Examples(
        ids=chance.integers(5, VOCABULARY, lengths.sum()).astype(np.int32),
        types=np.concatenate([np.arange(each) >= each // 2 for each in lengths]).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.zeros(len(lengths), dtype=np.int64),
    )
    manifest = {"packing": packing, "max_length": LENGTH}
    prepared: Any = SimpleNamespace(manifest=manifest, folder=Path(), examples=lambda _: rows)
    return Generate(prepared, None)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "gather", lambda value: [value])


def batches(generate: Generate) -> list[dict[str, torch.Tensor]]:
    spec = EngineSpec.model_validate({"tokens_per_batch": 48})
    return [part for rows in generate.epoch(0, 0, spec) for part in generate.parts(rows, 0, 1, 1)[0]]


def losses(generate: Generate, model: Decoder) -> float:
    """The sum over all tokens to generate."""
    loss = generate.loss(model, OptimizerSpec.model_validate({}))
    with torch.no_grad():
        return sum(
            float(loss(model(each["input_ids"], each["position_ids"]), each).sum()) for each in batches(generate)
        )


@pytest.mark.parametrize("kind", LEAKING)
def test_of_a_model_that_leaks_every_text_has_its_own_row(kind: str, caplog: pytest.LogCaptureFixture):
    model, asked, unpacked = model_of(kind), task(), task(packing=False)
    asked.look_at(model, "teacher")
    (said,) = [each.message for each in caplog.records if each.name.startswith("jobs.")]
    assert said == (
        f"teacher: data.packing: true, but texts in one row change each other's logits in a {kind} model (by "
        f"{leak(model):.2g} of the largest): every text gets a row of its own"
    )
    for ours, theirs in zip(batches(asked), batches(unpacked), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(asked, model.eval()) == losses(unpacked, model)
    assert abs(losses(task(), model) / losses(unpacked, model) - 1) > 1e-6  # packed it would learn something else


@pytest.mark.parametrize("kind", MASKING)
def test_of_a_model_that_masks_texts_share_rows_without_a_difference(kind: str, caplog: pytest.LogCaptureFixture):
    model, asked = model_of(kind), task()
    asked.look_at(model, "teacher")
    assert not caplog.records
    assert leak(model) < LEAKS / 10
    assert len(batches(asked)) < len(task().lengths)
    assert (batches(asked)[0]["position_ids"][:, 1:] == 0).any()
    assert losses(asked, model.eval()) == pytest.approx(losses(task(packing=False), model), rel=1e-5)


def test_looking_leaves_the_model_and_chance_as_they_were():
    model = model_of("opt").train()
    before = torch.get_rng_state()
    leak(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    logits = model(torch.arange(5, 9)[None], torch.arange(4)[None])
    logits.sum().backward()  # nothing of it was made for inference alone
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_where_nothing_is_packed_nothing_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.models.decoder.leak", lambda _: pytest.fail("measured"))
    task(packing=False).look_at(model_of("gpt2"), "student")


def test_one_worker_that_sees_a_leak_is_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "gather", lambda value: [value, 0.5])
    asked = task()
    asked.look_at(model_of("gpt2"), "student")
    assert all((each["position_ids"][:, 0] == 0).all() for each in batches(asked))
    assert sum(len(each["input_ids"]) for each in batches(asked)) == len(asked.lengths)
