from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import ANSWER_SHAPE, TASKS
from jobs.measure import measurement
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measurement, measure_here
from jobs.measure.reference import TorchGenerator
from jobs.models.decoder import save
from jobs.tasks.generate.evaluation import Writing
from jobs.tasks.generate.rows import plan
from serving.generator import load_generator
from tests.tiny.decoders import byte_tokenizer, write_tiny_decoder
from tests.tiny.models import decoder
from tuning.figures import at

FIRST, MANY = (1, 32, 1), (4, 32, 32)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls, cores as they were, and locks of its own: someone else may be measuring on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(measurement, "pin", lambda threads: None)
    monkeypatch.setitem(TASKS, "generate", replace(TASKS["generate"], calls=10))


@pytest.mark.parametrize(("read", "written", "longest", "tokens"), [(8, 20, 64, 20), (32, 20, 24, 20), (8, 40, 24, 23)])
def test_an_answer_has_the_stated_length_wherever_it_would_end(
    tmp_path: Path, read: int, written: int, longest: int, tokens: int
):
    write_tiny_decoder(tmp_path / "bundle", b"0123456789ab", max_length=longest)
    writing = Writing(load_generator(tmp_path / "bundle"))
    assert len(writing(["0123"])[0].text) < 10
    (answer, other) = writing.of_length(read, written)(["0123456789", "01"])
    assert [len(byte_tokenizer().encode(each.text)) for each in (answer, other)] == [tokens, tokens]


def test_a_decoder_in_torch_writes_the_stated_length_too(tmp_path: Path):
    model = decoder("llama", seed=3)
    save(model, tmp_path)
    written = TorchGenerator(tmp_path).of_length([[7, 8, 9], [9, 8, 7]], 11)
    assert [len(ids) for ids in written] == [11, 11]


def rows(folder: Path, **columns: object) -> Recipe:
    lines = [json.dumps({"text": f"{number} a text to go on with", "label": "0123456789"}) for number in range(12)]
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    data = dict.fromkeys(("train", "validation", "test"), str(folder / "rows.jsonl"))
    return Recipe.model_validate({"name": "x", "task": "generate", "data": data, **columns})


def test_a_decoder_is_timed_by_its_first_token_and_by_the_tokens_of_its_answers(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle")
    question = Measurement(
        task="generate",
        data=rows(tmp_path).data,
        split="validation",
        contenders=[
            Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle")),
            Contender(name="nearest_row", kind="fitted", fit=TASKS["generate"].baselines["nearest"].make),
        ],
        shapes=[FIRST, ANSWER_SHAPE, MANY],
        mix=True,
        resources=True,
        tokenizer=str(tmp_path / "bundle" / "tokenizer.json"),
    )
    found = measure_here(question)
    latency, metrics = found["winner"].figures["latency"], found["winner"].figures["metrics"]
    assert "ms_per_token" not in latency[at(FIRST)] and latency[at(FIRST)]["p50_ms"] > 0
    alone, many = latency[at(ANSWER_SHAPE)], latency[at(MANY)]
    assert alone["ms_per_token"] == pytest.approx(alone["p50_ms"] / 32)
    assert many["tokens_per_second"] == pytest.approx(4 * 32 * 1e3 / many["p50_ms"])
    assert "p95_ms_others_high" in alone and "p95_ms_others_high" not in many
    assert latency["mix"]["p50_ms"] > 0
    for name in ("bleu", "chrf", "rouge_l", "exact_match", "repetition_rate", "length_ratio"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert found["nearest_row"].figures["metrics"]["exact_match"] == 1


def test_slots_are_no_metric_of_rows_without_attributes(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle")
    asked = Measurement(
        task="generate",
        data=rows(tmp_path).data,
        split="validation",
        contenders=[Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle"))],
        metric="slot_accuracy",
    )
    with pytest.raises(
        UsageError, match=r"^budget\.metric: 'slot_accuracy': data\.validation: .*no row has attributes"
    ):
        measure_here(asked)
    columns = {"label": ["a"], "attributes": [False]}
    told = Recipe.model_validate({"name": "x", "task": "generate", "budget": {"metric": "slot_accuracy"}})
    with pytest.raises(UsageError, match=r"^budget\.metric: 'slot_accuracy': .*; choose another metric$"):
        plan(told, pyarrow.table(columns), pyarrow.table(columns))
    limited = Recipe.model_validate({"name": "x", "task": "generate", "budget": {"max_slot_errors": 0.1}})
    with pytest.raises(UsageError, match=r"^budget\.max_slot_errors: 0\.1: .*: no row has attributes"):
        plan(limited, pyarrow.table(columns), pyarrow.table(columns))
