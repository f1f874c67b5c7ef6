from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cluster import launch, registry, session, tracking
from cluster.session import JobError
from configs.folder import digest_file
from configs.loader import UsageError
from configs.schema.compression import APART, StepSpec
from configs.schema.distillation import StoredOutputs
from configs.schema.engine import EngineSpec
from configs.schema.models import StudentSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import BASELINES
from jobs.compress import run
from jobs.compression import apply
from jobs.compression.apply import Compressed
from jobs.compression.bundle import compress
from jobs.compression.export.onnx import TOLERANCE
from jobs.compression.step_context import StepContext
from jobs.data.prepared import Prepared
from jobs.measure.reference import load_reference
from jobs.models import encoder
from jobs.models.reference import write_reference
from jobs.models.student import encoder_student
from jobs.training.loop import Fit
from jobs.training.wanted import outputs_key
from serving.bundle import bundle_digest, read_bundle
from serving.generator import load_generator
from serving.runtime import load_bundle
from tests.tiny import texts as tiny_texts
from tests.tiny.models import decoder, encoder_classifier
from tests.tiny.workplace import completed, examples, labelled, workplace

TEXTS = ["w5", "w6 w7", "w7 w5 w6 w5", "w5 w5 w5 w6 w7 w7 w6 w5 w6"]


def test_a_convolutional_student_is_pruned_exported_quantised_and_served(tmp_path: Path):
    student = encoder_student(encoder_classifier(), StudentSpec(kind="conv", layers=2, hidden=16))
    apply = [{"step": "prune", "sparsity": 0.05}, {"step": "export"}, {"step": "quantize"}]
    told = {"compression": apply, "budget": {"min_retention": 0}}
    place = workplace(tmp_path, student, examples(60), examples(20, seed=1), **told)
    compress(place.recipe, tmp_path / "student", tmp_path / "bundle", {})
    expected_NC = load_reference(tmp_path / "student").scores(TEXTS)
    found_NC = load_bundle(tmp_path / "bundle").scores(TEXTS)
    np.testing.assert_allclose(found_NC[1:], expected_NC[1:], atol=0.02)
    np.testing.assert_allclose(found_NC[0], expected_NC[0], atol=0.05)  # shorter than all rows that fixed the ranges
    assert expected_NC.std(axis=0).max() > 0.1


def test_a_step_that_ruins_the_model_fails_the_job_and_leaves_no_bundle(tmp_path: Path):
    student = encoder_classifier(layers=1)
    rows = labelled(examples(60), student)
    apply = [{"step": "prune", "sparsity": 0.99}, {"step": "export"}]
    recipe = workplace(tmp_path, student, rows, rows, compression=apply).recipe
    with pytest.raises(
        JobError, match=r"^compression\[0\]: 'prune' lowers validation accuracy from 1 to 0\.\d+ \(60 rows\)"
    ):
        compress(recipe, tmp_path / "student", tmp_path / "bundle", {}, judged=True)
    assert not (tmp_path / "bundle").exists()


def test_a_decoder_is_judged_step_by_step_and_writes_what_its_pruned_model_writes(tmp_path: Path):
    model = decoder("gpt2")
    rows = completed(model, 30)
    given = [{"step": "prune", "sparsity": 0.02}, {"step": "export"}, {"step": "quantize"}]
    told = {"compression": given, "budget": {"min_retention": 0.5}, "export": {"parity": 0.5}}  # random weights
    place = workplace(tmp_path, model, rows, rows, task="generate", **told)
    bundle = compress(place.recipe, tmp_path / "student", tmp_path / "bundle", {}, judged=True)
    facts = bundle.provenance["facts"]
    assert (facts["prune"]["before"], facts["prune"]["rows"]) == (1, 30) and 0.5 < facts["prune"]["after"] <= 1
    assert facts["forms"]["ctranslate2 f32"]["float"]["same"] == 1
    assert load_generator(tmp_path / "bundle").predict(["w7 w8 w9"])[0]["text"]


def test_a_student_that_is_not_there_is_named_by_its_field():
    with pytest.raises(UsageError, match=r"^bundle: /typo: no such folder$"):
        run(Recipe.model_validate({"name": "x", "bundle": "/typo"}))


EXPORT, QUANTIZE, CODE = ({"step": name} for name in ("export", "quantize", "code"))
PRUNE, FOLD, VOCABULARY = ({"step": name} for name in ("prune", "fold", "vocabulary"))
SHRINK = {"step": "shrink", "heads": 1, "feed_forward": 0.5, "hidden": 24}
CLUSTER = {"step": "cluster", "bits": 3, "steps": 2}
DISTILL = {"step": "distill", "epochs": 1}
PAIRS: dict[str, tuple[str, list[dict[str, Any]]]] = {  # student and steps
    "prune, quantize": ("bert", [PRUNE, EXPORT, QUANTIZE]),
    "prune, distill": ("bert", [{"step": "prune", "sparsity": None, "pattern": "2:4"}, DISTILL, EXPORT]),
    "prune, cluster": ("bert", [PRUNE, CLUSTER, EXPORT, CODE]),
    "shrink, distill": ("bert", [{**SHRINK, "importance": "magnitude"}, DISTILL, EXPORT]),
    "shrink, quantize": ("bert", [SHRINK, EXPORT, {**QUANTIZE, "calibration_rows": 20}]),
    "distill, quantize": ("bert", [{**DISTILL, "quantize_aware": True}, EXPORT, QUANTIZE]),
    "vocabulary, cluster": ("bert", [VOCABULARY, CLUSTER, EXPORT, CODE]),
    "fold, vocabulary": ("conv", [FOLD, VOCABULARY, EXPORT]),
    "fold, quantize": ("conv", [FOLD, EXPORT, QUANTIZE]),
    "quantize, code": ("bert", [{**CLUSTER, "steps": 0}, EXPORT, QUANTIZE, CODE]),
}
WORDS = ["Where is my parcel?", "refund", "I was charged twice and nobody answers", "zzz"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    """Rows of texts, two students, a teacher and what it says of the rows."""
    place = tiny_texts.workplace(tmp_path_factory.mktemp("shop"))
    prepared, model = place.prepared, encoder.load(place.student)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # so that every part of it shows in the answers
    conv = encoder_student(model, StudentSpec(kind="conv", layers=1, hidden=16)).eval()
    for name, student in {"bert": model, "conv": conv, "teacher": model}.items():
        write_reference(place.output / name, student, prepared, "tiny", {}, {})
    logits_NC = np.random.default_rng(0).normal(size=(len(prepared.examples("train")), len(prepared.labels)))
    key = outputs_key(place.recipe, prepared, StoredOutputs())
    tiny_texts.write_logits(place.output / "teacher_outputs", logits_NC, key=key, wanted=StoredOutputs().model_dump())
    return place


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of a worker group: what is not zero becomes a little larger."""

    def train(train_loop: str, config: dict[str, Any], spec: EngineSpec, folder: Path) -> dict[str, float]:
        fit = Fit.model_validate(config)
        model = encoder.load(Path(fit.start or ""))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        write_reference(Path(fit.target), model, Prepared.open(Path(fit.prepared)), "made", {}, {})
        return {}

    monkeypatch.setattr(launch, "fit", train)
    monkeypatch.setattr(session, "check_capacity", lambda engine: None)


def and_keep(folder: Path, compress: Any, model: Any, specs: Sequence[StepSpec], *told: Any) -> Compressed:
    """`steps.compress`, which leaves in `folder` the model as it was exported, and the file."""
    made: Compressed = compress(model, specs, *told)
    (file,) = made.files.values()
    shutil.copyfile(file.last, folder / "last")
    place: StepContext = told[0]
    write_reference(folder / "model", made.model, place.prepared, "tiny", {}, {})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_the_bundle_of_two_steps_reloads_in_one_call_and_answers_as_their_model(
    pair: str, shop: StepContext, workers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    student, given = PAIRS[pair]
    fields = {"compression": given, "budget": {"min_retention": 0}}
    recipe = Recipe.model_validate(shop.recipe.model_dump() | fields)
    monkeypatch.setattr(apply, "compress", functools.partial(and_keep, tmp_path, apply.compress))
    bundle = compress(recipe, shop.output / student, tmp_path / "bundle", {})
    assert set(pair.split(", ")) <= bundle.provenance["facts"].keys()
    assert bundle.files["model.onnx"].sha256 == digest_file(tmp_path / "last")
    expected_NC = load_reference(tmp_path / "model").scores(WORDS)
    atol = 0.05 if QUANTIZE["step"] in [each["step"] for each in given] else TOLERANCE
    np.testing.assert_allclose(load_bundle(tmp_path / "bundle").scores(WORDS), expected_NC, atol=atol)
    assert expected_NC.std(axis=0).max() > 0.02


@pytest.mark.parametrize("pair", APART, ids=" then ".join)
def test_two_steps_that_cannot_be_combined_are_refused_with_the_reason_of_the_table(pair: tuple[str, str]):
    given = [{"step": each, "name": str(number)} for number, each in enumerate(pair)]
    after = [each for each in given if each["step"] in ("quantize", "code")]
    before = [each for each in given if each not in after]
    with pytest.raises(ValueError, match=rf"compression\[\d\]: '{pair[1]}' after .*: {APART[pair]}; leave one out"):
        Recipe.model_validate({"name": "tiny", "compression": [*before, EXPORT, *after]})


def test_a_baseline_is_a_bundle_of_its_own_and_takes_no_winners_place(
    shop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its figures are there for the gate; what MLflow would be told is kept here."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # someone else may be measuring on this machine
    told = SimpleNamespace(id="run", metrics=SimpleNamespace(log=lambda _: None))
    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext(told))
    registered: list[Any] = []
    monkeypatch.setattr(registry, "register", lambda *given: registered.append(given) or "models:/tiny/1")
    timed = {"validation_accuracy": 0.75, "p95_ms": 0.5, "megabytes": 0.1}
    monkeypatch.setattr("jobs.compress.measure_candidate", lambda *_, **__: (dict(timed), {}))
    data = {split: str(shop_folder / f"{split}.jsonl") for split in ("train", "validation")}
    given = {"name": "tiny", "output": str(tmp_path), "data": data, "bundle": "baseline:tfidf"}
    result = run(Recipe.model_validate(given).on_driver(tmp_path.parent, tmp_path))
    folder = Path(str(result.bundle))
    assert folder == tmp_path / "baseline" and not (tmp_path / "bundle").exists()
    bundle = read_bundle(folder)
    assert bundle.runtime == "linear" and bundle.provenance["run_id"] == "run"
    assert bundle.metrics.items() >= {**timed, "metric": 0.75}.items() and "retention" not in bundle.metrics
    assert BASELINES["tfidf"].what in (folder / "README.md").read_text()
    ((name, _, registered_folder, tags, alias),) = registered
    assert (name, registered_folder, alias) == ("tiny", folder, "baseline")
    assert tags == {"slimcart.bundle": bundle_digest(folder)}


def test_a_baseline_that_is_none_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match=r"bundle: baseline:svm: .*classify has baseline:tfidf and baseline:static"):
        Recipe.model_validate({"name": "tiny", "bundle": "baseline:svm"})
    with pytest.raises(ValueError, match=r"bundle: baseline:tfidf: task 'generate' makes no such baseline"):
        Recipe.model_validate({"name": "tiny", "task": "generate", "bundle": "baseline:tfidf"})
