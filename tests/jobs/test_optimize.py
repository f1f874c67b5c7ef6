"""What optimize refuses before it trains anything."""

from __future__ import annotations

import contextlib
import gzip
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cluster import session, tracking
from cluster.session import JobError
from configs.loader import UsageError
from jobs import deploy, optimize, prepare
from jobs.optimize import check
from jobs.recipe import Recipe, SearchRecipe


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


def test_a_path_that_leads_nowhere_is_not_taken_for_a_data_set_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def no_such(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.chdir(tmp_path)
    check(recipe("rows/test"))  # nobody can be asked: it may be one that was read before
    (tmp_path / "rows").mkdir()
    assert refusal("rows/test") == "no such file, and the Hub does not answer"
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", no_such)
    assert refusal("rows/test") == "neither a file here nor a data set on the Hub"
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


def test_where_the_winner_could_not_be_deployed_nothing_is_prepared(monkeypatch: pytest.MonkeyPatch):
    def taken(_: Any) -> None:
        raise JobError("port 8000 is taken")

    monkeypatch.setattr(tracking, "run", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "check_capacity", lambda _: None)
    monkeypatch.setattr(prepare, "run", lambda *_: pytest.fail("prepared"))
    monkeypatch.setattr(deploy, "check_serve", taken)
    with pytest.raises(JobError, match="port 8000 is taken"):
        optimize.run(SearchRecipe.model_validate({"name": "x", "deploy": True}))
