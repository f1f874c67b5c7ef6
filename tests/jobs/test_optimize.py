"""What optimize refuses before it trains anything, and what stays where the winner is not deployed."""

from __future__ import annotations

import contextlib
import gzip
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cluster import session, tracking
from cluster.session import JobError
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from configs.schema.serving import ServingSpec
from jobs import deploy, evaluate, optimize
from jobs.data import audit
from jobs.job import Way
from jobs.preflight import check


def recipe(test: str | Path | None, **data: Any) -> Recipe:
    given = {"train": "/rows/train.csv", "test": None if test is None else str(test), **data}
    return Recipe.model_validate({"name": "x", "data": given})


def refusal(test: str | Path, **data: Any) -> str:
    with pytest.raises(UsageError, match=rf"^data\.test: {re.escape(str(test))}: ") as refused:
        check(recipe(test, **data))
    return str(refused.value).removeprefix(f"data.test: {test}: ")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Columns `text` and `label` in every format, in each a row that no reader would take."""
    (tmp_path / "rows.csv").write_bytes(b"text,label\nonly one field\n")
    (tmp_path / "rows.jsonl").write_bytes(b'\n{"text": 1, "label": null}\nno JSON\n')
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    pyarrow.parquet.write_table(pyarrow.table({"text": [1], "label": [None]}), tmp_path / "rows.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_of_a_test_file_the_columns_are_looked_at_before_the_search_and_no_row(files: Path, name: str):
    check(recipe(files / name))
    for column in ({"label": "intent"}, {"text": "query"}, {"text_pair": "title"}, {"slices": ["channel"]}):
        (wanted,) = ([name] if isinstance(name, str) else name for name in column.values())
        assert refusal(files / name, **column) == f"no column {wanted[0]!r}; columns here: text, label"


def test_made_up_messages_are_no_test_of_a_model_of_other_rows():
    assert refusal("embedded:shop").endswith("give data.test, or data.test=null")
    check(recipe(None))
    check(recipe("embedded:shop", train="embedded:shop"))


def test_a_test_file_that_cannot_be_one_is_refused_before_the_search(tmp_path: Path):
    (tmp_path / "rows.txt").write_text("text,label\n")
    (tmp_path / "empty.jsonl").write_text("")
    assert refusal(tmp_path / "rows.txt").startswith("not a .jsonl, .csv or .parquet file")
    assert refusal(tmp_path / "typo") == refusal(tmp_path / "typo.csv") == "no such file"
    assert refusal(tmp_path / "empty.jsonl") == "holds no rows"
    assert refusal("embedded:store") == "no such generator; embedded:shop is the one there is"


def test_a_test_file_at_a_url_is_not_asked_for_before_the_search():
    check(recipe("http://127.0.0.1:1/rows.jsonl"))


def test_a_path_that_leads_nowhere_is_not_taken_for_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    assert refusal("rows/test").startswith("no such file here, nor in the cache of the Hub, and HF_HUB_OFFLINE forbids")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "its extra 'hub'" in refusal("rows/test")


def test_teachers_that_are_not_there_are_refused_before_one_is_trained():
    further = {"distillation": {"further_teachers": [{"bundle": "/typo"}]}}
    for given, field in (({"teacher": {"bundle": "/typo"}}, "teacher.bundle"), (further, "distillation.further_teach")):
        with pytest.raises(UsageError, match=rf"^{re.escape(field)}.*: /typo: no such folder$"):
            check(Recipe.model_validate({"name": "x"} | given))


def test_a_text_in_place_of_a_header_is_not_shown(tmp_path: Path):
    said = "I am Jane Roe and my card 4111 1111 1111 1111 was declined"
    (tmp_path / "rows.csv").write_text(f"{said},card\n")
    assert refusal(tmp_path / "rows.csv") == f"no column 'text'; columns here: (a name of {len(said)} characters), card"


def test_where_the_winner_could_not_be_deployed_nothing_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def taken(_: Any) -> None:
        raise JobError("port 8000 is taken")

    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    monkeypatch.setattr("jobs.prepare.read", lambda *_: pytest.fail("prepared"))
    monkeypatch.setattr(deploy, "check_serve", taken)
    with pytest.raises(JobError, match="port 8000 is taken"):
        optimize.run(SearchRecipe.model_validate({"name": "x", "output": str(tmp_path), "deploy": True}))


def test_a_deployment_that_no_unseen_row_could_allow_is_refused_before_anything_is_trained():
    asked = recipe(None).model_copy(update={"deploy": True})
    with pytest.raises(UsageError, match=r"^data\.test: none: .*give data\.test, or serving\.accept='\[untested\]'$"):
        check(asked)
    check(asked.model_copy(update={"serving": ServingSpec(accept=["untested"])}))
    check(recipe(None))


class Told:
    """Stands in for an MLflow run; remembers what it was told."""

    id = "r"

    def __init__(self) -> None:
        self.metrics, self.logged, self.tags, self.artifacts = self, {}, {}, []

    def log(self, metrics: dict[str, float]) -> None:
        self.logged |= metrics

    def tag(self, **tags: str) -> None:
        self.tags |= tags

    def artifact(self, path: Path) -> None:
        self.artifacts.append(path)


@pytest.fixture
def all_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a way holds on which every stage is made, by the stage's name; what its evaluation says can be changed."""
    search = {"model_uri": "models:/x/1", "trials": [], "winner": None, "teacher_metric": 0.9}
    evaluation: dict[str, Any] = {"task": "classify", "table": "the table", "metrics": {"inside": 0.0}, "tested": None}
    evaluation |= {"answers": {}, "shapes": [], "first": [], "verdict": None, "behind": [], "judged": None}
    for name, said in (("look_at_test", None), ("record_of", None), ("faults", {})):
        monkeypatch.setattr(audit, name, lambda *_, said=said: said)
    monkeypatch.setattr(optimize, "check_possible", lambda _: None)
    prepared = SimpleNamespace(key="k")
    return {"prepare": prepared, "finetune": {}, "teach": tmp_path, "tune": search, "evaluate": evaluation}


def test_where_the_gate_is_shut_the_evaluation_the_report_and_the_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_done: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    def shut(asked: Recipe, parent: str) -> None:
        assert (asked.bundle, parent) == ("models:/x/1", "r")
        raise JobError("models:/x/1: not deployed: outside the budget")

    monkeypatch.setattr(deploy, "run", shut)
    asked = SearchRecipe.model_validate({"name": "x", "output": str(tmp_path), "deploy": True})
    run: Any = Told()
    with pytest.raises(JobError, match="not deployed: outside the budget"):
        optimize.optimize(Way(asked, run, "optimize", tracked=True, values=all_done))
    assert run.logged == {"inside": 0.0} and run.tags["slimcart__model"] == "models:/x/1"
    assert run.artifacts == [tmp_path / "report.html"] and run.artifacts[0].exists()
    assert "the table" in capsys.readouterr().out


def test_an_evaluation_that_is_not_made_again_is_told_to_the_registry_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_done: dict[str, Any]
):
    recorded: list[Any] = []
    monkeypatch.setattr(evaluate, "record", recorded.append)
    run: Any = Told()
    asked = SearchRecipe.model_validate({"name": "x", "output": str(tmp_path)})
    optimize.optimize(Way(asked, run, "optimize", tracked=True, values=all_done))
    assert recorded == [all_done["evaluate"]]
