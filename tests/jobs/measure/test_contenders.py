from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema.data import DataSpec
from jobs.measure.contenders import Contender, load
from tests.tiny.bundles import LABELS, write_tiny_bundle


def test_a_bundle_answers_with_label_names_and_probabilities_in_order(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    contender = Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle"))
    spec = DataSpec.model_validate({"train": "train.jsonl", "validation": "validation.jsonl"})
    predict = load(contender, spec, threads=1)
    texts = ["where is my order", "refund please", "cancel it now"]
    answers = predict(texts)
    assert {each.text for each in answers} <= set(LABELS)
    assert all(each.score is not None and 1 / len(LABELS) <= each.score <= 1 for each in answers)
    assert predict(texts[::-1]) == answers[::-1]


def test_a_contender_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="reference"):
        Contender.model_validate({"name": "x", "kind": "magic"})
