from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from cluster.session import JobError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.data.source import Row, rows, sample
from jobs.measure import fresh, measurement
from jobs.measure.answers import Answer, Predictor
from jobs.measure.contenders import Contender
from jobs.measure.fresh import run_fresh
from jobs.measure.measurement import (
    Measurement,
    _of_what_goes_out,
    key,
    measure_candidate,
    measure_here,
    time_again,
)
from jobs.measure.retention import Teacher
from jobs.measure.timing import BLOCKS
from serving.bundle import PROFILE
from serving.drift import CHARACTERS, CONFIDENCE, LABEL, Profile
from serving.inputs import Input
from tests.processes import ROOT
from tests.tiny.bundles import LABELS, tokenizer, write_tiny_bundle
from tuning.figures import LATENCIES, at, figures, flat
from tuning.pareto import PACE, TIMED

NEAREST = TASKS["generate"].baselines["nearest"].make

WORDS = ["where is my order", "refund please", "cancel it now", "my order"]


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    lines = [json.dumps({"text": WORDS[number % 4], "label": LABELS[number % 3]}) for number in range(48)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    write_tiny_bundle(tmp_path / "bundle", max_length=64)
    return dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.jsonl"))


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls, cores as they were, and locks of its own: someone else may be measuring on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(TASKS, "classify", replace(TASKS["classify"], calls=20))
    monkeypatch.setattr(measurement, "pin", lambda threads: None)


def question(tmp_path: Path, data: dict[str, Any], **fields: Any) -> Measurement:
    contenders = [
        Contender(name="nearest_row", kind="fitted", fit=NEAREST),
        Contender(name="step", kind="bundle", folder=str(tmp_path / "bundle"), shapes=[(1, 8)]),
        Contender(name="winner", kind="bundle", folder=str(tmp_path / "bundle")),
    ]
    tokenizer = str(tmp_path / "bundle" / "tokenizer.json")
    common: dict[str, Any] = {"data": data, "split": "test", "contenders": contenders, "tokenizer": tokenizer}
    return Measurement.model_validate({**common, **fields})


def test_the_final_evaluation_asks_for_latencies_resources_and_resampled_rows(tmp_path: Path, data: dict[str, Any]):
    asked = question(
        tmp_path,
        data,
        resources=True,
        answers=True,
        mix=True,
        watts_per_core=10,
        shapes=[(1, 8), (4, 8)],
        score=["nearest_row", "winner"],
    )
    found = measure_here(asked)
    winner, step, baseline = (flat(found[name].figures) for name in ("winner", "step", "nearest_row"))
    for shape in ((1, 8), (4, 8)):
        assert 0 < winner[key(shape, "p50_ms")] <= winner[key(shape, "p95_ms")] <= winner[key(shape, "p99_ms")]
    assert found["winner"].figures["latency"].keys() == {"batch1_tokens8", "batch4_tokens8", "mix"}
    assert all(set(each) <= set(LATENCIES) for each in found["winner"].figures["latency"].values())
    assert key((1, 8), "p50_ms") in step and key((4, 8), "p50_ms") not in step
    assert winner["accuracy_low"] <= winner["accuracy"] <= winner["accuracy_high"]
    assert len(found["winner"].resampled) == 1000 and len(found["winner"].answers) == 48
    assert "accuracy" not in step and not found["step"].answers
    assert winner["load_s"] > 0 and "load_s" not in baseline and baseline["bytes"] > 0
    assert winner["mix_p50_ms"] > 0 and winner["joules_per_1000"] > 0
    assert "peak_mb" not in winner  # others were in this process too


def test_a_baseline_is_fitted_once(tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []
    load = measurement.load
    monkeypatch.setattr(measurement, "load", lambda each, *rest: loaded.append(each.name) or load(each, *rest))
    found = measure_here(question(tmp_path, data, score=["nearest_row"], shapes=[(1, 8)]))
    assert loaded.count("nearest_row") == 1
    assert {"accuracy", key((1, 8), "p50_ms")} <= flat(found["nearest_row"].figures).keys()


def test_a_trial_measures_only_what_the_search_needs(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measurement, "measure", measure_here)
    recipe = Recipe.model_validate({"name": "x", "data": data})
    found, files = measure_candidate(recipe, tmp_path / "bundle")
    profile = Profile.model_validate_json(files[PROFILE]).root
    assert {name: sum(each.counts) for name, each in profile.items()} == {CHARACTERS: 48, LABEL: 48, CONFIDENCE: 48}
    assert profile[LABEL].values == LABELS
    assert {"validation_accuracy", "validation_accuracy_low", "p50_ms", "p95_ms", "megabytes"} <= found.keys()
    assert {"p95_ms_others_low", "p95_ms_others_high", "busy"} <= found.keys() and 0 <= found["busy"] <= 1
    assert found["p50_ms"] <= found["p95_ms"] <= found["p95_ms_others_low"] <= found["p95_ms_others_high"]
    assert not [name for name in found if "peak" in name or "second" in name or "joules" in name or "load" in name]
    assert {name.split("_p")[0] for name in found if name.startswith("batch")} == {
        "batch1_tokens32",
        "batch1_tokens32_mean_ms",
        "batch1_tokens32_calls",
        "batch1_tokens32_busy",
    }


def test_finalists_are_timed_in_turns_each_at_that_many_tokens_of_its_own(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    letters = tokenizer(pairs=False)  # cuts the same text into more tokens
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setattr("tests.tiny.bundles.tokenizer", lambda pairs: letters)
        write_tiny_bundle(tmp_path / "other", max_length=64)
    asked: list[tuple[str, int]] = []

    def load(contender: Contender, *_: Any) -> Predictor:
        cutter = Tokenizer.from_file(f"{contender.folder}/tokenizer.json")

        def predict(inputs: Sequence[Input]) -> list[Answer]:
            asked.extend((contender.name, len(cutter.encode(str(text)))) for text in inputs)
            return []

        return predict

    monkeypatch.setattr(measurement, "measure", measure_here)
    monkeypatch.setattr(measurement, "load", load)
    bundles = {name: tmp_path / name for name in ("bundle", "other")}
    found = time_again(Recipe.model_validate({"name": "x", "data": data}), bundles)
    assert set(asked) == {("bundle", 32), ("other", 32)}
    assert len([name for (name, _), (after, _) in itertools.pairwise(asked) if name != after]) > 2 * BLOCKS
    for each in found.values():
        assert set(TIMED) - {PACE} <= each.keys()
        assert each["p95_ms"] == each[key((1, 32), "p95_ms")]


def test_a_trial_is_measured_on_the_rows_that_its_teacher_answered(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measurement, "measure", measure_here)
    recipe = Recipe.model_validate({"name": "x", "data": data, "budget": {"metric": "macro_f1"}})
    teacher = Teacher(0.5, [0.5] * 1000, sample(list(rows(recipe.data, "validation"))))
    found, _ = measure_candidate(recipe, tmp_path / "bundle", teacher)
    assert found["metric"] == found["validation_macro_f1"]
    assert found["retention"] == found["metric"] / 0.5 and found["retention_se"] > 0
    assert found["validation_macro_f1_low"] < found["metric"] < found["validation_macro_f1_high"]
    for text, what in (("my order\n", "48 rows as then, with other texts or labels"), ("", "48 rows then, 47 now")):
        lines = Path(data["validation"]).read_text().splitlines(keepends=True)
        lines[-1:] = [json.dumps({"text": text, "label": LABELS[0]}) + "\n"] if text else []
        Path(data["validation"]).write_text("".join(lines))
        with pytest.raises(JobError) as refused:
            measure_candidate(recipe, tmp_path / "bundle", teacher)
        words = (
            f"data.validation: {data['validation']}: changed since its rows were prepared ({what}); put it back to go "
        )
        assert str(refused.value) == f"{words}on, or run the same command again to begin with what it holds now"


def test_rows_that_changed_are_one_line_of_the_process_that_measures(tmp_path: Path, data: dict[str, Any]):
    asked = question(tmp_path, data, sample=(48, "0"))
    with pytest.raises(
        JobError, match=r"^measuring winner failed: data\.test: .*: changed since its rows were prepared"
    ):
        run_fresh("jobs.measure.measurement", asked.model_dump_json(), 1, "winner")


def test_memory_and_the_time_to_load_are_those_of_a_contender_alone(tmp_path: Path, data: dict[str, Any]):
    winner = question(tmp_path, data).contenders[-1]
    found = measure_here(question(tmp_path, data, contenders=[winner], resources=True))["winner"].figures["metrics"]
    assert found["peak_mb"] > 20 and found["rows_per_second"] > 0 and found["load_s"] > 0


def test_a_bundle_whose_answers_depend_on_the_batch_is_found_out(tmp_path: Path, data: dict[str, Any]):
    contenders = [each for each in question(tmp_path, data).contenders if each.name != "step"]
    found = measure_here(question(tmp_path, data, contenders=contenders, batches=True))
    assert found["winner"].figures["metrics"]["batch_changed"] == 0
    assert "batch_changed" not in found["nearest_row"].figures["metrics"]

    def crowded(inputs: Sequence[Input]) -> list[Answer]:
        """Among others every fourth is answered otherwise."""
        return [Answer(f"{number % 4 == 3 and len(inputs) > 1}") for number, _ in enumerate(inputs)]

    assert measurement.changed(crowded, WORDS * 16) == 0.25


def test_the_last_words_of_a_process_that_failed_are_told(monkeypatch: pytest.MonkeyPatch):
    def failed(command: Any, stderr: int, **_: Any) -> subprocess.CompletedProcess[str]:
        os.write(stderr, b"Traceback ...\nBundleError: nowhere: no such file\n")
        return subprocess.CompletedProcess(command, 1, "")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(JobError, match=r"^measuring winner failed: BundleError: nowhere: no such file$"):
        run_fresh("jobs.measure.measurement", "", 1, "winner")


def test_a_measurement_that_waits_is_told_while_it_does(monkeypatch: pytest.MonkeyPatch):
    said = queue.Queue[str]()
    speaker = logging.Handler()
    speaker.emit = lambda record: said.put(record.getMessage())

    def waits(command: Any, stderr: int, **_: Any) -> subprocess.CompletedProcess[str]:
        os.write(stderr, b"a notice of some library\nwaiting: a measurement of another (process 1)\n")
        assert said.get(timeout=60) == "waiting: a measurement of another (process 1)"
        return subprocess.CompletedProcess(command, 0, '{"winner": 1}\n')

    monkeypatch.setattr(subprocess, "run", waits)
    monkeypatch.setattr(fresh.log, "handlers", [speaker])
    assert run_fresh("jobs.measure.measurement", "", 1, "winner") == {"winner": 1}
    assert said.empty()


def test_the_limit_of_a_measurement_grows_with_the_rows_that_are_scored(tmp_path: Path, data: dict[str, Any]):
    assert measurement.limit(question(tmp_path, data)) == 3600 + 3 * 48
    assert measurement.limit(question(tmp_path, data, score=["winner"])) == 3600 + 48
    assert measurement.limit(question(tmp_path, data, score=False)) == 3600


def test_a_measurement_beyond_its_limit_is_ended_in_one_line():
    with pytest.raises(JobError, match=r"^measuring winner was not done after 0\.01 s, and was ended$"):
        run_fresh("timeit", "", 1, "winner", seconds=0.01)


WORKS = """
import sys, time
from jobs.measure.fresh import end_with_parent
{before}
end_with_parent()
open(sys.argv[1], "w").close()
time.sleep(600)
"""
STARTS = """
import os, subprocess, sys
from jobs.measure.fresh import PARENT
subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | {PARENT: str(os.getpid())})
print(flush=True)
sys.stdin.read()
"""


def test_a_busy_machine_is_warned_of_whatever_was_asked(
    tmp_path: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for busy in (0.02, 0.31):
        monkeypatch.setattr(
            measurement,
            "run_fresh",
            lambda *_, busy=busy: {"winner": (figures(latency={at((1, 8)): {"busy": busy}}), [], ())},
        )
        measurement.measure(question(tmp_path, data))
        assert ("winner was kept from the CPU for 31% of the time" in caplog.text) == (busy > 0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked as Linux is")
@pytest.mark.parametrize("dies", ["before the child asked", "afterwards"])
def test_a_measuring_process_ends_when_the_one_it_works_for_is_killed(tmp_path: Path, dies: str):
    early = dies == "before the child asked"
    before = f"while not __import__('os').path.exists({str(tmp_path / 'killed')!r}): time.sleep(0.01)" if early else ""
    command = [sys.executable, "-c", STARTS, "-c", WORKS.format(before=before), str(tmp_path / "asked")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        while not early and not (tmp_path / "asked").exists():
            time.sleep(0.01)
        parent.kill()
        parent.wait()
    (tmp_path / "killed").touch()
    _, alive = psutil.wait_procs([child], timeout=30)
    for each in alive:
        each.kill()
    assert not alive
    assert (tmp_path / "asked").exists() != early


def test_what_is_held_back_counts_and_errors_are_those_of_what_goes_out():
    slots = (("name", "Tecra 22"),)
    rows = [Row(f"p{number}", None, "The Tecra 22 is here.", slots) for number in range(4)]
    good, bad = Answer("The Tecra 22 is here.", held=False), Answer("It is here.", held=True)
    task = TASKS["generate"]
    assert _of_what_goes_out([good, good, good, bad], rows, task) == {"held": 0.25, "sent_slot_error_rate": 0.0}
    unchecked = [Answer(each.text) for each in (good, good, good, bad)]
    assert _of_what_goes_out(unchecked, rows, task) == {"sent_slot_error_rate": 0.25}
    assert _of_what_goes_out([bad] * 4, rows, task) == {"held": 1.0}
    assert _of_what_goes_out([Answer("a")] * 4, rows, TASKS["classify"]) == {}
