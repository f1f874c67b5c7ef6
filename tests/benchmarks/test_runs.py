from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _runs
from benchmarks._runs import Runs, Study
from jobs.versions import STAGES


def test_what_is_known_of_teacher_and_baselines_is_kept_until_a_stage_that_made_it_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    measured: list[str] = []
    verbs: list[str] = []
    teacher = tmp_path / "shop-0" / "teacher"

    def trains(_: Runs, name: str) -> None:
        teacher.mkdir(parents=True, exist_ok=True)
        verbs.append(name)

    monkeypatch.setattr(Runs, "verb", trains)
    monkeypatch.setattr(Runs, "measured", lambda _, name, *__: measured.append(name) or {"accuracy": 0.5})
    monkeypatch.setattr(_runs, "made", lambda *_: {"tfidf": tmp_path})

    def known() -> list[str]:
        measured.clear()
        found = Runs(tmp_path, tmp_path, "shop", Study("configs/intent.yaml", "accuracy"), 0).known
        assert found == {name: {"accuracy": 0.5} for name in ("teacher", "tfidf_svm")}
        return measured

    assert known() == ["teacher", "tfidf_svm"] and known() == []
    for stage, trained in (("measure", 1), ("baselines", 1), ("prepare", 2), ("finetune", 3)):
        monkeypatch.setitem(STAGES, stage, STAGES[stage]._replace(version=99))
        assert known() == ["teacher", "tfidf_svm"] and verbs == ["finetune"] * trained
    teacher.rmdir()
    monkeypatch.setitem(STAGES, "measure", STAGES["measure"]._replace(version=100))
    assert known() == ["teacher", "tfidf_svm"] and verbs == ["finetune"] * 4
