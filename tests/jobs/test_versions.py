"""Stages depend on what they do, too: a result that changes under its old number would be taken for the old one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.folder import digest_json
from configs.schema.distillation import StoredOutputs
from jobs import versions
from jobs.data.prepared import Prepared
from jobs.evaluation import evaluation_key
from jobs.measure import machine
from jobs.measure.baselines import Source, baseline_key
from jobs.training import loss
from jobs.training.fit import student_key, teacher_key
from jobs.training.wanted import outputs_key
from jobs.trials import judged, search_key
from jobs.versions import STAGES
from tests.jobs import results
from tests.jobs.results import RESULTS, differences, kept, main
from tests.tiny.stages import prepared, recipe_of, write_model

SLOW = {"finetune", "distill", "compress"}
WHO_DEPENDS = {  # keys, beside those of the stages after them, by what they are of
    "prepare": {"prepared"},
    "pool": {"pool"},
    "finetune": {"teacher"},
    "teach": {"outputs", "student", "search"},
    "distill": {"student", "search"},
    "compress": {"search", "evaluation"},
    "measure": {"search", "evaluation"},
    "search": {"search"},
    "choose": {"judged"},
    "baselines": {"baseline"},  # an evaluation depends on the digests of their bundles
    "evaluate": {"evaluation"},
    "cascade": set[str](),  # which is always made anew
    "score": set[str](),  # the last thing that is made
    "reply": set[str](),  # nothing stands on it but an evaluation, which depends on its digest
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def place(folder: Path, stage: str) -> Path:
    """Where a stage works; those that train learn in one process."""
    made = folder / ("learned" if stage in ("finetune", "distill") else stage)
    made.mkdir(exist_ok=True)
    return made


@pytest.mark.parametrize("stage", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in STAGES])
def test_the_result_of_a_stage_changes_only_with_its_version(stage: str, folder: Path):
    recorded = kept(stage)
    changed = differences(RESULTS[stage](place(folder, stage)), recorded["figures"])
    anew = f"record it anew by: python -m tests.jobs.results {stage}"
    assert recorded["version"] == STAGES[stage].version, f"{stage} has another version in jobs/versions.py; {anew}"
    if versions.libraries(stage) == recorded["libraries"]:
        anew = f"raise its version in jobs/versions.py, and {anew}"
    assert not changed, f"the result of stage {stage} changed ({', '.join(changed)}): {anew}"


@pytest.mark.slow
def test_a_loss_of_another_sign_is_another_result(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = RESULTS["distill"](place(folder, "distill"))
    divergence = loss.kl
    monkeypatch.setattr(loss, "kl", lambda log_p_NC, log_q_NC: -divergence(log_p_NC, log_q_NC))
    assert set(differences(RESULTS["distill"](place(folder, "distill")), before)) == {"loss", "loss of completions"}


def test_a_result_that_changed_is_not_recorded_under_the_version_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    monkeypatch.setattr(results, "RESULTS", {"cascade": lambda _: {"threshold": 0.5}})
    had = STAGES["cascade"].version
    assert list(main([])) == [f"cascade: recorded under version {had}"]
    monkeypatch.setattr(results, "RESULTS", {"cascade": lambda _: {"threshold": 0.6}})
    assert [line.partition(";")[0] for line in main([])] == ["cascade: not recorded: threshold changed"]
    assert kept("cascade")["figures"] == {"threshold": 0.5}
    raise_version(monkeypatch, "cascade")
    assert list(main([])) == [f"cascade: recorded under version {had + 1}"]


def raise_version(patch: pytest.MonkeyPatch, stage: str) -> None:
    patch.setitem(STAGES, stage, STAGES[stage]._replace(version=STAGES[stage].version + 1))


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """All keys of a recipe, asked for again."""
    pooled = {"distillation": {"pool": {"rows": 5}}}
    write_model(tmp_path / "model")
    recipe, rows = recipe_of(tmp_path, **pooled), Prepared(tmp_path, {"key": "k"})

    def asked() -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jobs.training.wanted.taught_by", lambda recipe: [])
            patch.setattr("jobs.training.fit.taught_by", lambda recipe: [])
            made = prepared(tmp_path, **pooled)
            assert made.pool is not None
            return {
                "prepared": made.key,
                "pool": made.pool.key,
                "teacher": teacher_key(recipe, rows),
                "outputs": outputs_key(recipe, rows, StoredOutputs()),
                "student": student_key(recipe, rows),
                "search": search_key(recipe, rows),
                "judged": digest_json(judged(recipe)),
                "baseline": baseline_key(recipe, "tfidf", Source(recipe.data, recipe.judged_by, None)),
                "evaluation": evaluation_key(recipe, [], ""),
            }

    return asked


def test_keys_change_with_the_version_of_what_their_stages_do(
    keys: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    before = keys()
    for stage, dependent in WHO_DEPENDS.items():
        with monkeypatch.context() as patch:
            raise_version(patch, stage)
            after = keys()
        changed = {name for name in before if after[name] != before[name]}
        assert changed - {"pool"} == dependent - {"pool"}, stage
        assert ("pool" in changed) == (stage in ("prepare", "pool")), stage
    assert keys() == before
    assert WHO_DEPENDS.keys() == STAGES.keys() == RESULTS.keys()


def test_a_teacher_is_made_anew_under_another_torch(
    keys: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    before = keys()
    monkeypatch.setattr(versions, "_installed", lambda name: "2.0" if name == "torch" else "1.0")
    first = keys()
    monkeypatch.setattr(versions, "_installed", lambda name: "2.1" if name == "torch" else "1.0")
    assert {name for name, key in keys().items() if key != first[name]} == {
        "teacher",
        "outputs",
        "student",
        "search",
        "evaluation",
    }
    assert before["teacher"] != first["teacher"]


def test_what_was_measured_on_another_kind_of_machine_is_measured_again(
    keys: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    before = keys()
    monkeypatch.setattr(machine, "cpu", lambda: "another CPU")
    assert {name for name, key in keys().items() if key != before[name]} == {"search", "evaluation"}
