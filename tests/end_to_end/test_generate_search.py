"""The whole way of task generate, from rows of attributes to a report and a registered challenger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import registry
from cluster.record import Cluster
from configs.schema.search_recipe import SearchRecipe
from jobs import optimize
from jobs.command import Result
from jobs.tasks.generate.metrics import score
from serving.bundle import read_bundle
from tests.tuning.pages import Page

pytestmark = pytest.mark.parallel  # minutes: make test has the same verbs with a classifier, and decoders verb by verb

COLOURS, NAMES = ["red", "blue", "matt black"], ["Apollo 73", "Hermes 9", "Notus 31", "Plutus 4"]
ROWS = {"train": 72, "validation": 12, "test": 12}


def row(number: int) -> dict[str, object]:
    name, colour = NAMES[number % 4], COLOURS[number // 4 % 3]
    ending = ["", " and it ships today", " and it is new"][number % 3]
    attributes = {"name": name, "colour": colour, "number": number}
    return {"attributes": attributes, "text": f"the {name} number {number} is {colour}{ending}"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, on_cluster: Cluster) -> SearchRecipe:
    """Two trials over descriptions of made-up products."""
    folder, first, files = tmp_path_factory.mktemp("descriptions"), 0, {}
    for split, count in ROWS.items():
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(f"{json.dumps(row(number))}\n" for number in range(first, first + count)))
        first += count
    training = {"epochs": 2, "learning_rate": 5e-3}
    return SearchRecipe.model_validate(
        {
            "name": "tiny-descriptions",
            "task": "generate",
            "output": str(on_cluster.home / "descriptions"),
            "data": {split: str(file) for split, file in files.items()}
            | {"text": "attributes", "label": "text", "max_length": 64},
            "teacher": {"model": "new:llama", "new": {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 300}}
            | training,
            "student": {"layers": 1},
            "distillation": {"temperature": 1} | training,
            "engine": {"cpus_per_worker": 1, "tokens_per_batch": 512, "precision": "fp32"},
            "compression": [{"step": "export"}, {"step": "quantize"}],
            "export": {"batches": [1, 4], "parity": 0},
            "budget": {"metric": "chrf", "min_retention": 0.1, "margin": 0, "max_ms_per_token": 1e3, "max_p95_ms": 1e4},
            "search": {"trials": 2, "space": {"compression.quantize.bits": {"choice": [8, 4]}}},
            "evaluation": {"examples": 3},
        }
    )


@pytest.fixture(scope="module")
def done(recipe: SearchRecipe) -> Result:
    return optimize.run(recipe)


def test_the_winner_of_two_trials_is_a_registered_challenger(done: Result, recipe: SearchRecipe):
    assert done.model_uri is not None and done.bundle is not None
    name, version = registry.resolve(f"models:/{recipe.name}@{registry.CHALLENGER}")
    assert done.model_uri == f"models:/{name}/{version}"
    bundle = read_bundle(Path(done.bundle))
    assert (bundle.task, bundle.runtime) == ("generate", "ctranslate2")
    assert bundle.metrics["ms_per_token"] == pytest.approx(bundle.metrics["p50_ms"] / 32)
    assert bundle.metrics["mix_p50_ms"] > 0 and 0 < bundle.metrics["validation_chrf"] <= 100
    search = json.loads(Path(str(recipe.output), "search", "manifest.json").read_text())
    assert len(search["trials"]) == 2 and search["metric"] == "chrf"


def test_a_teacher_is_judged_by_the_texts_that_it_wrote_when_it_taught(done: Result, recipe: SearchRecipe):
    from jobs.data.prepared import Prepared
    from jobs.data.source import rows
    from jobs.measure.answers import input_of
    from jobs.measure.reference import load_decoder
    from jobs.tasks.generate.teaching import stored_answers

    output, given = Path(str(recipe.output)), list(rows(recipe.data, "validation"))
    stored = stored_answers(Prepared.open(output / "prepared"), output / "teacher_outputs")
    assert stored == [each["text"] for each in load_decoder(output / "teacher").predict(list(map(input_of, given)))]
    search = json.loads((output / "search" / "manifest.json").read_text())
    assert search["teacher_metric"] == score(stored, given)["chrf"]


def test_the_report_compares_everyone_and_shows_rows_side_by_side(done: Result):
    assert done.report is not None
    page = Page(Path(done.report).read_text(encoding="utf-8"))
    figures = {line[0]: line[1:] for line in page.tables[1]}
    assert figures["figure"] == ["winner", "teacher", "student", "nearest row", "template"]
    for title in ("BLEU", "chrF, 95 % interval", "ms for each token, batch 1, prompts of 32 tokens, answers of 32"):
        assert "-" not in figures[title]
    side_by_side = next(table for table in page.tables if table[0][0] == "prompt")
    assert side_by_side[0] == ["prompt", "reference", "teacher", "winner", "chrF"] and len(side_by_side) == 4
    scores = [float(line[-1]) for line in side_by_side[1:]]
    assert scores == sorted(scores)


def test_the_same_command_again_makes_nothing(done: Result, recipe: SearchRecipe):
    manifest = Path(str(recipe.output), "search", "manifest.json")
    before = manifest.stat().st_mtime_ns
    assert optimize.run(recipe).model_uri == done.model_uri
    assert manifest.stat().st_mtime_ns == before
