from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster import registry, tracking
from cluster.record import Cluster
from cluster.session import JobError
from configs.folder import commit
from configs.loader import UsageError
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import ANSWER_SHAPE, TASKS
from jobs.data import snapshot as snapshots
from jobs.data.prepared import MANIFEST
from jobs.data.source import Row, Split
from jobs.evaluate import EVALUATION, record, run
from jobs.evaluation import (
    _compare_with_peak,
    _contenders,
    _counted_by,
    _measure,
    _shapes,
    check_test_rows,
    evaluate,
    evaluation_key,
)
from jobs.job import Way
from jobs.measure import baselines, gate
from jobs.measure.answers import Answer
from jobs.measure.contenders import Contender
from jobs.measure.measurement import Measured, Measurement
from serving.bundle import Bundle, bundle_bytes, bundle_digest, read_bundle
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tuning.figures import Shape, figures

NEAREST = TASKS["generate"].baselines["nearest"].make
TIMED = {"batch1_tokens32": {"p50_ms": 1.0, "p95_ms": 1.0}}


def recipe(folder: Path, slices: list[str], **sections: Any) -> Recipe:
    rows = [{"text": "my order", "label": LABELS[n % 3], "channel": "phone", "id": f"row {n}"} for n in range(60)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"test": str(folder / "test.jsonl"), "slices": slices}
    return Recipe.model_validate({"name": "x", "data": data, **sections})


def test_test_rows_come_with_the_group_of_each_in_every_slice(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    found = check_test_rows(recipe(tmp_path, ["channel"]), bundle)
    assert found.labels == LABELS * 20
    assert found.slices == {"channel": ["phone"] * 60}
    plain = check_test_rows(recipe(tmp_path, []), bundle)
    assert (plain.asked == found.asked) and (plain.fingerprint != found.fingerprint), "the same rows for a model"


def test_what_customers_wrote_is_not_shown_where_it_stands_in_place_of_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    asked = recipe(tmp_path, [])
    ids = asked.model_copy(update={"data": asked.data.model_copy(update={"label": "id"})})
    with pytest.raises(
        UsageError, match=r"none of its labels is one of the bundle's, for example label of row 1 \(5 characters"
    ):
        check_test_rows(ids, bundle)
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"text": "a", "label": "my card " * 9}) + "\n")
    check_test_rows(asked, bundle)
    assert "for example label of row 61 (71 characters" in caplog.text and "my card" not in caplog.text


def test_a_slice_of_ids_is_refused_before_anything_is_measured(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(UsageError, match=r"data\.slices: 'id': 60 different values in 60 rows look like ids"):
        check_test_rows(recipe(tmp_path, ["id"]), bundle)


def test_an_evaluation_depends_on_slices_budget_shapes_bundles_and_rows(tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    contenders = [Contender(name="winner", kind="bundle", folder=str(tmp_path / "tiny"))]
    plain, sliced = recipe(tmp_path, []), recipe(tmp_path, ["channel"])
    rows = check_test_rows(plain, bundle).fingerprint
    keys = [
        evaluation_key(plain, contenders, rows),
        evaluation_key(sliced, contenders, rows),
        evaluation_key(plain, [], rows),
        evaluation_key(plain, contenders, check_test_rows(sliced, bundle).fingerprint),
        evaluation_key(recipe(tmp_path, [], budget={"min_retention": 0.5, "gate": "point"}), contenders, rows),
        evaluation_key(recipe(tmp_path, [], export={"lengths": [8]}), contenders, rows),
        evaluation_key(recipe(tmp_path, [], evaluation={"steps": False}), contenders, rows),
    ]
    assert len(set(keys)) == len(keys)
    assert evaluation_key(recipe(tmp_path, []), contenders, rows) == keys[0]
    assert evaluation_key(recipe(tmp_path, [], budget={"gate": "interval"}), contenders, rows) == keys[0]


def test_an_evaluation_is_found_again_until_a_slice_is_added(tmp_path: Path):
    write_tiny_bundle(tmp_path / "tiny")
    place: dict[str, Any] = {"output": str(tmp_path / "out"), "bundle": str(tmp_path / "tiny")}
    asked = recipe(tmp_path, ["channel"], **place)
    bundle = Path(place["bundle"])

    def found(asked: Recipe) -> Any:
        way = Way(asked, cast("Any", None), "evaluate")
        return EVALUATION.open(way, tmp_path / "out" / "evaluation", EVALUATION.key(way))

    assert found(asked) is None
    contenders = [Contender(name="winner", kind="bundle", folder=str(bundle))]
    key = evaluation_key(asked, contenders, check_test_rows(asked, read_bundle(bundle)).fingerprint)
    commit(tmp_path / "out" / "evaluation", MANIFEST, lambda _: {"key": key, "table": "it", "tested": None})
    assert found(asked)["table"] == "it"
    assert found(recipe(tmp_path, [], **place)) is None


def test_a_student_that_the_bundle_was_not_made_of_is_no_contender(tmp_path: Path):
    output = tmp_path / "out"
    asked = recipe(tmp_path, [], output=str(output))
    write_tiny_bundle(output / "student", runtime="torch")
    description = write_tiny_bundle(output / "bundle", provenance={"student": bundle_digest(output / "student")})
    assert "student" in [each.name for each in _contenders(asked, output / "bundle", description)]
    write_tiny_bundle(output / "student", seed=1, runtime="torch")
    assert "student" not in [each.name for each in _contenders(asked, output / "bundle", description)]


def test_baselines_are_those_that_were_asked_for_and_of_a_given_bundle_none_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(baselines, "made", lambda recipe, names, teacher: {name: tmp_path / name for name in names})
    output = tmp_path / "out"
    description = write_tiny_bundle(output / "bundle")

    def names(asked: list[str] | None, bundle: str | None = None, described: Bundle = description) -> list[str]:
        asking = recipe(tmp_path, [], output=str(output), bundle=bundle, evaluation={"baselines": asked})
        return [each.name for each in _contenders(asking, output / "bundle", described)]

    assert names(None) == ["tfidf_svm", "winner"] == names(["tfidf"])
    assert names([]) == ["winner"] == names(None, bundle=str(output / "bundle"))
    assert names(["tfidf"], bundle=str(output / "bundle")) == ["tfidf_svm", "winner"]
    with pytest.raises(UsageError, match=r"^evaluation\.baselines: 'static': no teacher here"):
        names(["static"])
    itself = description.model_copy(update={"provenance": {"baseline": "tfidf"}})
    assert names(None, described=itself) == ["winner"]


def test_tokens_of_a_winner_that_reads_words_are_counted_as_its_teacher_does(tmp_path: Path):
    write_tiny_bundle(tmp_path / "teacher", runtime="torch")
    write_tiny_bundle(tmp_path / "winner")
    found = [
        Contender(name="teacher", kind="reference", folder=str(tmp_path / "teacher")),
        Contender(name="winner", kind="bundle", folder=str(tmp_path / "winner")),
    ]
    assert _counted_by(found) == tmp_path / "winner" / "tokenizer.json"
    manifest = json.loads((tmp_path / "winner" / "bundle.json").read_text())
    (tmp_path / "winner" / "bundle.json").write_text(json.dumps(manifest | {"runtime": "linear", "inputs": []}))
    assert _counted_by(found) == tmp_path / "teacher" / "tokenizer.json"
    assert _counted_by(found[1:]) == tmp_path / "winner" / "tokenizer.json"


def test_lengths_beyond_what_the_models_see_are_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_tiny_bundle(tmp_path / "long", max_length=64)
    write_tiny_bundle(tmp_path / "longer", max_length=512)
    found = [Contender(name=name, kind="bundle", folder=str(tmp_path / name)) for name in ("long", "longer")]
    caplog.set_level("INFO")
    asked = recipe(tmp_path, [])
    assert _shapes(asked, [Contender(name="nearest_row", kind="fitted", fit=NEAREST), *found]) == [
        (batch, tokens) for tokens in (16, 32, 64) for batch in (1, 8, 32)
    ]
    assert "not timed at [128] tokens: the models cut a text after 64" in caplog.text
    assert _shapes(recipe(tmp_path, [], export={"lengths": [8], "batches": [4]}), found) == [(4, 8), (1, 32)]
    assert "as the models see them" not in caplog.text
    write_tiny_bundle(tmp_path / "short", max_length=16)
    short = [Contender(name="short", kind="bundle", folder=str(tmp_path / "short"))]
    assert _shapes(recipe(tmp_path, [], export={"lengths": [16], "batches": [1]}), short) == [(1, 16), (1, 32)]
    assert "texts of 32 tokens are timed as the models see them: cut after 16" in caplog.text


def test_what_is_fitted_is_scored_where_it_is_timed_and_bundles_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So no baseline is fitted twice, and the first figures of a contender stand: those of its own process."""
    write_tiny_bundle(tmp_path / "tiny")
    asked: list[tuple[list[str], bool | list[str]]] = []

    def answer(question: Measurement) -> dict[str, Measured]:
        names = [each.name for each in question.contenders]
        asked.append((names, question.score))
        scored = names if question.score is True else question.score or []
        known = {True: figures({"accuracy": 0.5}), False: figures(latency=TIMED)}
        return {name: Measured(copy.deepcopy(known[name in scored]), []) for name in names}

    monkeypatch.setattr("jobs.evaluation.measure", answer)
    contenders = [
        Contender(name="nearest_row", kind="fitted", fit=NEAREST),
        Contender(name="winner", kind="bundle", folder=str(tmp_path / "tiny")),
    ]
    found = _measure(recipe(tmp_path, []), tmp_path / "tokenizer.json", contenders, [(1, 32)])
    assert asked == [(["winner"], True), (["nearest_row", "winner"], ["nearest_row"])]
    assert list(found) == ["nearest_row", "winner"]
    size = bundle_bytes(read_bundle(tmp_path / "tiny"))
    assert found["winner"].figures == figures({"accuracy": 0.5, "bytes": size}, TIMED)


def test_a_contender_that_fails_does_not_end_the_evaluation_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    write_tiny_bundle(tmp_path / "tiny")
    bad: list[str] = []

    def answer(question: Measurement) -> dict[str, Measured]:
        for each in question.contenders:
            if each.name in bad:
                raise JobError(f"measuring {each.name} failed: empty vocabulary")
        return {each.name: Measured(figures({"accuracy": 0.5}, TIMED), []) for each in question.contenders}

    monkeypatch.setattr("jobs.evaluation.measure", answer)
    folder = str(tmp_path / "tiny")
    contenders = [
        Contender(name="nearest_row", kind="fitted", fit=NEAREST),
        *(Contender(name=name, kind="bundle", folder=folder) for name in ("static_logreg", "winner")),
    ]
    told, file = recipe(tmp_path, []), tmp_path / "tokenizer.json"
    bad += ["static_logreg"]
    assert list(_measure(told, file, contenders, [(1, 32)])) == ["nearest_row", "winner"]
    assert "static_logreg is left out: measuring static_logreg failed: empty vocabulary" in caplog.text
    bad += ["nearest_row"]
    assert list(_measure(told, file, contenders, [(1, 32)])) == ["winner"]
    bad += ["winner"]
    with pytest.raises(JobError, match="measuring winner failed"):
        _measure(told, file, contenders, [(1, 32)])


@pytest.mark.parametrize("bad", [["step_code"], ["nearest_row", "step_code"], ["nearest_row"]])
def test_contenders_that_cannot_be_timed_are_left_out_and_the_others_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bad: list[str]
):
    """They were scored; all are timed in one process, which ends with any of them."""
    write_tiny_bundle(tmp_path / "tiny")

    def answer(question: Measurement) -> dict[str, Measured]:
        names = [each.name for each in question.contenders]
        if question.mix and (first := next((each for each in names if each in bad), None)):
            raise JobError(f"measuring {', '.join(names)} failed: {first}")
        return {name: Measured(figures({"accuracy": 0.5}, TIMED), []) for name in names}

    monkeypatch.setattr("jobs.evaluation.measure", answer)
    contenders = [
        Contender(name="nearest_row", kind="fitted", fit=NEAREST),
        *(Contender(name=name, kind="bundle", folder=str(tmp_path / "tiny")) for name in ("step_code", "winner")),
    ]
    found = _measure(recipe(tmp_path, []), tmp_path / "tokenizer.json", contenders, [(1, 32)])
    assert list(found) == [each.name for each in contenders if each.name not in bad]
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert told == [f"{name} is left out: measuring {name} failed: {name}" for name in bad]


def test_how_the_test_rows_are_cut_is_known(tmp_path: Path):
    bundle, asked = write_tiny_bundle(tmp_path / "tiny"), recipe(tmp_path, [])
    assert check_test_rows(asked, bundle).counted == "words"
    rows = [{"text": "我的包裹 Acme", "label": LABELS[n % 3]} for n in range(6)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check_test_rows(asked, bundle).counted == "characters (Han), words elsewhere"


def test_a_decoder_is_timed_by_answers_of_a_stated_length_and_on_rows_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_tiny_bundle(tmp_path / "tiny")
    asked: list[tuple[bool, list[Shape]]] = []

    def answer(question: Measurement) -> dict[str, Measured]:
        asked.append((question.mix, question.shapes))
        return {each.name: Measured(figures(), []) for each in question.contenders}

    monkeypatch.setattr("jobs.evaluation.measure", answer)
    told = recipe(tmp_path, [], task="generate", export={"batches": [16, 1]})
    contenders = [Contender(name="winner", kind="bundle", folder=str(tmp_path / "tiny"))]
    shapes = [(1, 32, 1), ANSWER_SHAPE, (16, 32, 32)]
    assert _shapes(told, contenders) == shapes
    measured = _measure(told, tmp_path / "tokenizer.json", contenders, shapes)
    assert asked == [(False, []), (True, shapes)]
    assert _compare_with_peak(told, contenders, measured, shapes).peaks == {}


def test_bundles_that_are_not_there_are_named_by_their_field(tmp_path: Path):
    write_tiny_bundle(tmp_path / "tiny")
    there, typo = str(tmp_path / "tiny"), str(tmp_path / "typo")
    with pytest.raises(UsageError, match=rf"^bundle: {typo}: no such folder$"):
        run(recipe(tmp_path, [], bundle=typo))
    with pytest.raises(UsageError, match=rf"^teacher\.bundle: {typo}: no such folder$"):
        run(recipe(tmp_path, [], bundle=there, teacher={"bundle": typo}))


def test_an_exported_bundle_is_no_teacher(tmp_path: Path):
    description = write_tiny_bundle(tmp_path / "tiny")
    write_tiny_bundle(tmp_path / "exported", seed=1)
    asked = recipe(tmp_path, [], output=str(tmp_path), teacher={"bundle": str(tmp_path / "exported")})
    with pytest.raises(
        UsageError, match=r"^teacher\.bundle: .*exported: an exported onnxruntime bundle; give a reference"
    ):
        _contenders(asked, tmp_path / "tiny", description)


EVIDENCE = {"asked": "a" * 64, "rows": 60, "metric": "accuracy", "value": 0.9, "p95_ms": 1.0, "megabytes": 1.0}


def test_what_test_rows_said_of_a_bundle_stands_with_every_version_of_it(on_mlflow: Cluster, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    digest = bundle_digest(tmp_path / "bundle")
    with tracking.run("tune", experiment="tests of evaluate", recipe={"output": str(tmp_path)}) as opened:
        for name in ("of-evaluate", "of-evaluate-too"):
            registry.register(name, opened, tmp_path / "bundle", {registry.BUNDLE_TAG: digest}, "challenger")
    found = {"tested": EVIDENCE | {"retention": 0.95}, "bundle": digest, "run_id": "r", "at": "2026-01-01"}
    record(found)
    for name in ("of-evaluate", "of-evaluate-too"):
        (evidence,) = gate.evidence(registry.tags(name, "1"), digest, "accuracy")
        assert (evidence.retention, evidence.run) == (0.95, "r")
    record(found | {"tested": EVIDENCE, "at": "2026-02-01"})
    assert gate.evidence(registry.tags("of-evaluate", "1"), digest, "accuracy") == [evidence], (
        "with a teacher they said more"
    )
    record(found | {"tested": EVIDENCE | {"retention": 0.5}, "at": "2026-03-01"})
    (newer,) = gate.evidence(registry.tags("of-evaluate", "1"), digest, "accuracy")
    assert newer.retention == 0.5
    record({"tested": None})


def test_a_registry_that_is_away_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def away(_: str) -> None:
        raise JobError("MLflow does not answer")

    monkeypatch.setattr(registry, "versions_of", away)
    record({"tested": EVIDENCE, "bundle": "b", "run_id": "r", "at": "2026-01-01"})
    assert "is not in the registry: MLflow does not answer; evaluate again before deploy" in caplog.text


def test_an_evaluation_reads_the_test_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who measures is handed a file of them, and what is wrong with them is counted on that."""
    bundle = write_tiny_bundle(tmp_path / "tiny") and tmp_path / "tiny"
    read, asked = snapshots.rows, list[Any]()

    def counted(data: DataSpec, split: Split, *rest: Any) -> Iterator[Row]:
        asked.append(split)
        return read(data, split, *rest)

    def answer(question: Measurement) -> dict[str, Measured]:
        assert question.snapshot is not None
        answers = [Answer(row.label, 1.0) for row in question.snapshot.rows()]
        return {"winner": Measured(figures({"accuracy": 1.0}, TIMED), answers)}

    monkeypatch.setattr(snapshots, "rows", counted)
    monkeypatch.setattr("jobs.evaluation.rows", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("jobs.evaluation.measure", answer)
    monkeypatch.setattr("jobs.measure.peak.ask", lambda: {"fp32": 1.0})
    given = {"bundle": str(bundle), "output": str(tmp_path / "out"), "export": {"lengths": [32], "batches": [1]}}
    found = evaluate(recipe(tmp_path, ["channel"], **given), bundle, "1")
    assert asked == ["test"]
    assert found["answers"]["winner"]["shares"]["batch1_tokens32"]["fp32"] > 0
    assert found["metrics"]["winner_batch1_tokens32_fp32_peak_share"] > 0 and found["metrics"]["fp32_peak"] == 1
    assert found["rows"]["splits"]["test"]["rows"] == 60 == found["tested"]["rows"]
    assert not list((tmp_path / "out" / ".work").glob("rows-*"))
