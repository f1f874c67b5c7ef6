from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.compression.logits import logits
from jobs.data.batches import collate
from jobs.data.feeds import take
from jobs.tasks.classify.judging import metric
from jobs.tasks.generate.judging import token_accuracy
from tests.tiny.graph import write_graph
from tests.tiny.models import decoder, encoder_classifier
from tests.tiny.workplace import INPUTS, completed, examples


def test_rows_are_spread_evenly_over_the_examples_and_each_occurs_once():
    given = examples(100)
    numbered = type(given)(given.ids, given.types, given.offsets, np.arange(100))
    assert sorted(take(numbered, INPUTS, 0, 12).labels.tolist()) == list(range(0, 100, 9))
    assert sorted(take(numbered, INPUTS, 0, 100).labels.tolist()) == list(range(100))
    assert len(take(numbered, INPUTS, 0, 500)) == 100


def test_batches_hold_rows_of_like_length_filled_up_with_the_padding_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.feeds.TOKENS_PER_BATCH", 64)
    given = examples(50)
    longest = [feed["input_ids"].shape[1] for feed in take(given, INPUTS, 3, 50).feeds]
    assert longest == sorted(longest) and len(longest) > 5
    for feed in take(given, INPUTS, 3, 50).feeds:
        assert feed.keys() == set(INPUTS)
        assert feed["input_ids"].size <= 64
        assert (feed["input_ids"][feed["attention_mask"] == 0] == 3).all()
        assert (feed["input_ids"][feed["attention_mask"] == 1] >= 5).all()


def test_a_file_and_a_model_answer_every_row_in_the_order_of_its_label(tmp_path: Path):
    given = examples(40)
    alone = {name: each.numpy() for name, each in collate(given, np.arange(40), 20).items() if name in INPUTS}
    numbered = type(given)(given.ids, given.types, given.offsets, np.arange(40))
    rows = take(numbered, INPUTS, 0, 40)
    for model in (write_graph(tmp_path / "0.onnx"), encoder_classifier(layers=1)):
        whole = type(rows)([alone], rows.labels)
        np.testing.assert_allclose(logits(model, rows), logits(model, whole)[rows.labels], atol=1e-5)


def test_the_metric_is_the_share_of_rows_that_are_answered_right(tmp_path: Path):
    file = write_graph(tmp_path / "0.onnx")
    rows = take(examples(40), INPUTS, 0, 40)
    said = logits(file, rows).argmax(1)
    assert metric(file, type(rows)(rows.feeds, said)) == 1
    said[:10] = (said[:10] + 1) % 5
    assert metric(file, type(rows)(rows.feeds, said)) == 0.75


def test_of_tokens_to_generate_the_share_that_a_decoder_would_say():
    model = decoder("llama")
    said = completed(model, 6)
    assert token_accuracy(model, said, 6) == 1
    assert token_accuracy(model, said, 1) == 1
    ids, lasts = said.ids.copy(), said.offsets[1:] - 1  # nothing follows these
    ids[lasts] = 5 + (ids[lasts] - 4) % 55
    assert token_accuracy(model, replace(said, ids=ids), 6) == pytest.approx(1 - len(lasts) / said.targets.sum())


def test_of_no_tokens_to_generate_none_is_right():
    model = decoder("llama")
    assert token_accuracy(model, examples(3), 3) == 0
