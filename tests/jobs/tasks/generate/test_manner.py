from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.schema.recipe import Recipe
from jobs.models import decoder
from jobs.models.reference import read_reference, write_reference
from tests.tiny.folders import decoder_folder
from tests.tiny.shop import write_locally
from tests.tiny.ways import prepare


def test_the_bundle_holds_what_the_rows_taught_to_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    model = decoder_folder(tmp_path / "model")
    tones, answers = ("plain", "formal"), ("it is", "it is on its way", "it is on its way to you now")
    rows = [{"text": f"where {n}", "tone": tones[n % 2], "label": answers[n % 3]} for n in range(60)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    recipe = Recipe.model_validate(
        {
            "name": "styles",
            "task": "generate",
            "output": str(tmp_path / "output"),
            "data": {**files, "test": None, "max_length": 60, "style": "tone", "lengths": [2, 5]},
            "teacher": {"model": str(model)},
            "student": {"layers": 1},
        }
    )
    prepared = prepare(recipe)
    write_reference(tmp_path / "teacher", decoder.from_pretrained(str(model), 60), prepared, "styles", {}, {})
    expected = {"style": ["formal", "plain"], "length": ["short", "medium", "long"]}
    assert read_reference(tmp_path / "teacher", "").manner == expected
