"""A tiny random checkpoint of each family through the verbs, one after the other, to a file that answers.

tests/jobs/models/test_families.py takes every family the same way without workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cluster.record import Cluster
from configs.schema.recipe import Recipe
from jobs import compress, distill, finetune
from serving.bundle import read_bundle
from serving.generator import load_generator
from serving.runtime import load_bundle
from tests.jobs.compression.export.test_small import TAKEN
from tests.tiny.folders import ENCODERS, decoder_folder, encoder_folder

FIRST = ("distilbert", "roberta", "xlm-roberta", "gpt2", "qwen3")  # the others are for the longest run
TEXTS = ["where is my parcel", "my order is late please", "money back please", "refund my money"]
LABELS = ["parcel", "parcel", "refund", "refund"]


def kinds(families: Iterable[str]) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.parallel if kind in FIRST else pytest.mark.often) for kind in families]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, its class, and another text to write for it."""
    folder = tmp_path_factory.mktemp("rows")
    for split, count in (("train", 64), ("validation", 24)):
        lines = [
            {"text": f"{TEXTS[row % 4]} {' '.join(TEXTS[row // 4 % 4].split()[:2])}", "label": LABELS[row % 4]}
            for row in range(count)
        ]
        told = (json.dumps(each | {"answer": f"about the {each['label']}"}) for each in lines)
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in told))
    return folder


@pytest.fixture
def made(on_cluster: Cluster, rows: Path, tmp_path: Path) -> Callable[..., Path]:
    """The bundle that the verbs leave, one after the other."""

    def make(model: Path, **sections: Any) -> Path:
        recipe = Recipe.model_validate(
            {
                "name": "families",
                "output": str(tmp_path / "output"),
                "engine": {"workers": 1, "cpus_per_worker": 1, "precision": "fp32", "max_failures": 0},
                "student": {"layers": 2},
                "budget": {"min_retention": 0},
                "compression": [{"step": "export"}],
                **sections,
                "data": {each: str(rows / f"{each}.jsonl") for each in ("train", "validation")}
                | {"test": None, "max_length": 60}
                | sections.get("data", {}),
                "teacher": {"model": str(model), "epochs": 1} | sections.get("teacher", {}),
                "distillation": {"epochs": 1} | sections.get("distillation", {}),
            }
        )
        for verb in (finetune, distill, compress):
            result = verb.run(recipe)
        assert result.bundle is not None
        return Path(result.bundle)

    return make


@pytest.mark.parametrize("kind", kinds(ENCODERS))
def test_an_encoder_goes_through_the_verbs(made: Callable[..., Path], kind: str, tmp_path: Path):
    student = {"kind": "conv"} if kind == "albert" else {"layers": 2}  # ALBERT has one layer, again and again
    folder = made(encoder_folder(tmp_path / "model", kind), student=student)
    assert read_bundle(folder).runtime in ("onnxruntime", "openvino")
    assert {each["label"] for each in load_bundle(folder).predict(TEXTS)} <= set(LABELS)


@pytest.mark.parametrize("kind", kinds(TAKEN))
def test_a_decoder_goes_through_the_verbs(made: Callable[..., Path], kind: str, tmp_path: Path):
    folder = made(
        decoder_folder(tmp_path / "model", kind),
        task="generate",
        data={"label": "answer"},
        distillation={"temperature": 1},
    )
    assert read_bundle(folder).runtime == "ctranslate2"
    assert len(load_generator(folder).predict(TEXTS[:2])) == 2
