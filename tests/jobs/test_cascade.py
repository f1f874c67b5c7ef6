from __future__ import annotations

import itertools
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cluster import registry, session
from cluster.record import Cluster
from cluster.registry import CHAMPION
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.tasks import TASKS
from jobs.cascade import run
from jobs.compression.cascade import cascade, check_accuracy
from jobs.data.prepared import Prepared
from jobs.data.source import rows, sample
from jobs.deploy import deploy
from jobs.job import of_validation
from jobs.measure import measurement
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measured
from jobs.measure.retention import Teacher
from jobs.measure.teacher import teacher_metric
from jobs.release import evidence
from serving import deployment
from serving.bundle import MANIFEST, BundleError, read_bundle
from serving.cascade import Cascade
from serving.runtime import load_bundle
from tests.tiny import bundles
from tests.tiny.bundles import LABELS, WORDS, write_tiny_bundle
from tuning.figures import figures

TEXTS = [" ".join(words) for words in itertools.combinations(WORDS[4:], 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, the first a blurred copy of the second, and validation rows of which that is right on 90 %."""
    folder = tmp_path_factory.mktemp("cascade")
    random = np.random.default_rng(0)
    weights = bundles.reference_weights(0)
    write_tiny_bundle(folder / "second", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        weights["linear"] = weights["linear"] + random.normal(size=weights["linear"].shape).astype(np.float32)
        patch.setattr(bundles, "reference_weights", lambda seed: weights)
        write_tiny_bundle(folder / "first")
    with (folder / "validation.jsonl").open("w") as file:
        for text, said in zip(TEXTS, load_bundle(folder / "second").predict(TEXTS), strict=True):
            label = said["label"] if random.random() < 0.9 else random.choice(LABELS)
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return folder


def recipe(folder: Path, output: Path, **sections: Any) -> Recipe:
    """Without a margin unless said: what the threshold does is then known exactly."""
    fields = {"name": "x", "output": str(output), "data": {"validation": str(folder / "validation.jsonl")}}
    return Recipe.model_validate(fields | sections | {"budget": {"margin": 0} | sections.get("budget", {})})


def made(folder: Path, output: Path, **sections: Any) -> Cascade:
    asked = recipe(folder, output, **sections)
    cascade(asked, folder / "first", folder / "second", output / "cascade", {"run_id": "1"})
    loaded = load_bundle(output / "cascade")
    assert isinstance(loaded, Cascade)
    return loaded


def accuracy(folder: Path, labels: list[str]) -> float:
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    return float(np.mean([row["label"] == label for row, label in zip(rows, labels, strict=True)]))


def labels_of(classifier: Any) -> list[str]:
    return [each["label"] for each in classifier.predict(TEXTS)]


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_no_lower_threshold_keeps_the_wanted_accuracy(folder: Path, tmp_path: Path, loss: float):
    joined = made(folder, tmp_path, cascade={"max_loss": loss})
    second = labels_of(load_bundle(folder / "second"))
    wanted = accuracy(folder, second) - loss
    assert accuracy(folder, labels_of(joined)) >= wanted - 1e-9
    first = load_bundle(folder / "first")
    assert joined.bundle.first is not None and 0 < joined.bundle.first.threshold < 1
    scores_NC = first.scores(TEXTS).astype(np.float64) ** (1 / joined.bundle.first.temperature)
    sure_N = (scores_NC / scores_NC.sum(axis=1, keepdims=True)).max(axis=1)
    for lower in (each for each in sure_N if each < joined.bundle.first.threshold - 1e-6):
        mixed = np.where(sure_N >= lower, labels_of(first), second)
        assert accuracy(folder, mixed.tolist()) < wanted


def test_with_a_margin_less_is_lost_than_was_allowed(folder: Path, tmp_path: Path):
    thresholds = {}
    for margin in (0, 1):
        joined = made(folder, tmp_path / str(margin), cascade={"max_loss": 0.2}, budget={"margin": margin})
        assert joined.bundle.first is not None
        thresholds[margin] = joined.bundle.first.threshold
        lost = joined.bundle.metrics["validation_second_accuracy"] - accuracy(folder, labels_of(joined))
        assert lost <= 0.2 + 1e-9
    assert thresholds[1] > thresholds[0]
    with pytest.raises(JobError, match=r"with budget\.margin=5 standard errors to spare"):
        made(folder, tmp_path, cascade={"max_loss": 0.01}, budget={"margin": 5})


def test_a_cascade_says_what_it_is_made_of_and_what_its_models_do_alone(folder: Path, tmp_path: Path):
    bundle = made(folder, tmp_path, cascade={"max_loss": 0.05}).bundle
    for name in ("first", "second"):
        alone = accuracy(folder, labels_of(load_bundle(folder / name)))
        assert bundle.metrics[f"validation_{name}_accuracy"] == pytest.approx(alone)
        assert bundle.provenance[name].keys() == {"bundle", "provenance"}
    assert bundle.provenance["run_id"] == "1"
    assert bundle.provenance["wanted_accuracy"] == pytest.approx(bundle.metrics["validation_second_accuracy"] - 0.05)


def taught_to(monkeypatch: pytest.MonkeyPatch, output: Path, accuracy: float) -> list[Any]:
    """A teacher in `output` that answers rows so well, whatever its bundle says of other rows; what it was asked."""
    write_tiny_bundle(output / "teacher", runtime="torch", metrics={"validation_accuracy": 0.01})
    asked: list[Any] = []

    def ask(question: Any) -> dict[str, Measured]:
        if question.contenders[0].name != "teacher":
            return measurement.measure(question)
        asked.append(question)
        return {"teacher": Measured(figures({"accuracy": accuracy}), [])}

    monkeypatch.setattr("jobs.measure.teacher.measure", ask)
    return asked


def test_what_is_kept_of_a_teacher_is_of_the_same_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    asked = taught_to(monkeypatch, tmp_path, 0.9)
    told, second = recipe(folder, tmp_path), load_bundle(folder / "second").bundle
    examples = list(rows(told.data, "validation"))
    assert teacher_metric(told, second, examples) == 0.9
    assert [(each.sample, each.data) for each in asked] == [(sample(examples), told.data)]
    manifest = {"rows": {"validation": len(examples)}, "fingerprints": {"validation": sample(examples).fingerprint}}
    monkeypatch.setattr("jobs.measure.teacher.outputs_of", lambda _: tmp_path / "outputs")
    monkeypatch.setattr("jobs.measure.teacher.taught", lambda *_: Teacher(0.8, [], sample(examples)))
    monkeypatch.setattr("jobs.measure.teacher.Prepared.open", lambda _: Prepared(tmp_path, manifest))
    assert teacher_metric(told, second, examples) == 0.8 and len(asked) == 1
    caplog.set_level(logging.INFO)
    assert teacher_metric(told, second, examples[1:]) == 0.9 and len(asked) == 2
    assert (
        f"the teacher answers {len(examples) - 1} validation rows: {tmp_path / 'outputs'} is of other rows"
        in caplog.text
    )


def test_without_a_stated_loss_the_budget_says_what_is_kept_of_the_teacher(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taught_to(monkeypatch, tmp_path, 0.9)
    bundle = made(folder, tmp_path, budget={"min_retention": 0.8}).bundle
    assert bundle.provenance["wanted_accuracy"] == pytest.approx(0.72)
    with pytest.raises(JobError, match=r"no threshold .* keeps an accuracy of 1\.3500 on the validation rows \(0\.\d+"):
        made(folder, tmp_path, budget={"min_retention": 1.5})


def test_a_teacher_of_other_labels_is_none_and_its_absence_is_said(folder: Path, tmp_path: Path):
    asked = recipe(folder, tmp_path)
    second = load_bundle(folder / "second").bundle
    with pytest.raises(JobError, match=r"teacher: no teacher of these labels.*give teacher\.bundle, or cascade\.max"):
        made(folder, tmp_path)
    write_tiny_bundle(tmp_path / "teacher", labels=LABELS[::-1], runtime="torch", metrics={"validation_accuracy": 0.9})
    assert teacher_metric(asked, second, []) is None


@pytest.mark.parametrize("times", [0.1, 30.0])
def test_logits_of_any_size_make_the_same_cascade(folder: Path, tmp_path: Path, times: float):
    """Logits of grades lie hundreds apart, so that all probabilities but one are 0."""
    weights = onnx.load(folder / "first" / "model.onnx")
    linear = next(each for each in weights.graph.initializer if each.name == "linear")
    linear.CopyFrom(numpy_helper.from_array(np.float32(times) * numpy_helper.to_array(linear), "linear"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "mean_of_embeddings", lambda seed, pairs: weights)
        write_tiny_bundle(tmp_path / "first")
    shutil.copytree(folder / "second", tmp_path / "second")
    shutil.copyfile(folder / "validation.jsonl", tmp_path / "validation.jsonl")
    plain = made(folder, tmp_path / "plain", cascade={"max_loss": 0.05})
    louder = made(tmp_path, tmp_path / "louder", cascade={"max_loss": 0.05})
    assert plain.bundle.first is not None
    assert louder.bundle.first is not None
    assert louder.bundle.first.temperature == pytest.approx(times * plain.bundle.first.temperature, rel=1e-4)
    assert louder.bundle.first.threshold == pytest.approx(plain.bundle.first.threshold, abs=1e-4)
    assert labels_of(louder) == labels_of(plain)


def test_a_cascade_that_misses_what_was_wanted_is_refused():
    check_accuracy(0.95, 0.95)
    with pytest.raises(JobError, match=r"accuracy of 0\.9490 .*, 0\.9500 was wanted; the cascade is not registered"):
        check_accuracy(0.949, 0.95)


def test_a_first_model_that_would_do_alone_is_a_warning(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    joined = made(folder, tmp_path, cascade={"max_loss": 0.99})
    assert joined.share_first(TEXTS) == 1
    assert [each.levelno for each in caplog.records if "the second is never asked" in each.message] == [logging.WARNING]


def test_rows_of_a_label_that_the_bundles_do_not_know_are_refused(folder: Path, tmp_path: Path):
    (tmp_path / "validation.jsonl").write_text('{"text": "refund", "label": "praise"}\n')
    asked = recipe(tmp_path, tmp_path, cascade={"max_loss": 0.1})
    with pytest.raises(UsageError, match=r"data\.validation: label 'praise' is none of the bundle's 3"):
        cascade(asked, folder / "first", folder / "second", tmp_path / "cascade", {})


def test_a_bundle_with_other_labels_is_refused_before_rows_are_read(folder: Path, tmp_path: Path):
    write_tiny_bundle(tmp_path / "other", labels=LABELS[::-1])
    asked = Recipe.model_validate({"name": "x", "data": {"validation": "nowhere.jsonl"}})
    with pytest.raises(BundleError, match="their labels differ"):
        cascade(asked, tmp_path / "other", folder / "second", tmp_path / "cascade", {})


def test_a_recipe_without_a_first_bundle_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"cascade\.first: missing; give a small exported bundle"):
        run(recipe(folder, tmp_path))


def test_a_cascade_is_chosen_by_accuracy_alone(folder: Path, tmp_path: Path):
    asked = recipe(folder, tmp_path, cascade={"first": str(folder / "first")}, budget={"metric": "macro_f1"})
    with pytest.raises(
        UsageError, match=r"^budget\.metric: 'macro_f1': a cascade's threshold is chosen by accuracy; lea"
    ):
        run(asked)


@pytest.mark.parametrize("part", ["first", "second"])
def test_a_bundle_that_is_not_there_is_named_by_its_field(folder: Path, tmp_path: Path, part: str):
    parts = {"first": str(folder / "first"), "second": str(folder / "second"), part: "/typo"}
    with pytest.raises(UsageError, match=rf"^cascade\.{part}: /typo: no such folder$"):
        run(recipe(folder, tmp_path, cascade=parts))


def test_folders_of_bundles_are_made_absolute_on_the_driver_and_uris_stay(tmp_path: Path):
    asked = Recipe.model_validate({"name": "x", "cascade": {"first": "edge/bundle", "second": "models:/x@champion"}})
    found = asked.on_driver(tmp_path / "home", tmp_path).cascade
    assert (found.first, found.second) == (str(tmp_path / "edge/bundle"), "models:/x@champion")


def test_measuring_gives_the_share_of_the_first_and_latencies_of_rows_as_they_come(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    joined = made(folder, tmp_path, cascade={"max_loss": 0.05})
    monkeypatch.setattr(measurement, "pin", lambda threads: None)
    monkeypatch.setitem(TASKS, "classify", replace(TASKS["classify"], calls=10))
    contenders = [
        Contender(name="both", kind="bundle", folder=str(tmp_path / "cascade")),
        Contender(name="second", kind="bundle", folder=str(folder / "second")),
    ]
    data = recipe(folder, tmp_path).data
    found = measurement.measure_here(
        measurement.Measurement(data=data, split="validation", contenders=contenders, mix=True)
    )
    assert found["both"].figures["metrics"]["first_share"] == joined.share_first(TEXTS)
    assert found["both"].figures["metrics"]["accuracy"] == pytest.approx(accuracy(folder, labels_of(joined)))
    assert "first_share" not in found["second"].figures["metrics"]
    for each in found.values():
        assert 0 < each.figures["latency"]["mix"]["p50_ms"] <= each.figures["latency"]["mix"]["p95_ms"]


def test_the_job_registers_a_bundle_that_deploy_takes(
    folder: Path, tmp_path: Path, on_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    taught_to(monkeypatch, tmp_path, 0.95)
    parts = {"first": str(folder / "first"), "second": str(folder / "second")}
    result = run(recipe(folder, tmp_path, name="tiny-cascade", cascade=parts, budget={"min_retention": 0.9}))
    fetched = registry.folder("models:/tiny-cascade@cascade", MANIFEST)
    bundle = read_bundle(fetched)
    assert result.bundle is not None and bundle == read_bundle(Path(result.bundle))
    assert of_validation(bundle.metrics) == result.metrics
    assert result.metrics["validation_retention"] == pytest.approx(result.metrics["validation_accuracy"] / 0.95)
    assert 0 < result.metrics["validation_first_share"] < 1
    assert result.metrics["mix_p50_ms"] <= result.metrics["mix_p95_ms"]
    served: list[Any] = []

    def serve(*told: Any, allowed: Any) -> str:
        allowed(None)
        served.append(told[3])
        told[5]()
        return "http://127.0.0.1:8000/v1/x"

    monkeypatch.setattr(deployment, "deploy", serve)
    given = {"bundle": "models:/tiny-cascade@cascade", "budget": {"min_retention": 0.9, "max_p95_ms": 1000}}
    session.connect()
    untested = {"serving": {"accept": ["untested"]}}
    deployed = deploy(recipe(folder, tmp_path, name="tiny-cascade", **given, **untested))
    assert (deployed.uri, deployed.metrics) == ("models:/tiny-cascade/1", evidence(bundle))
    assert registry.alias_version("tiny-cascade", CHAMPION) == "1"
    (application,) = served
    assert application["deployments"][0]["user_config"]["bundle"] == str(fetched)
