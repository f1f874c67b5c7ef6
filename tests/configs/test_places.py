from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import shown_urls as shown
from configs.loader import UsageError
from configs.places import FIELDS, FOLDERS, resolved, used
from configs.schema.recipe import Recipe
from configs.shown_urls import shown_urls

SIGNED = "https://store.example/shop/rows.jsonl.gz?X-Signature=abc%2Fdef&X-Date=20300101"


@pytest.fixture(autouse=True)
def nothing_hidden_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_hidden", {})
    monkeypatch.setattr("configs.places._used", set())


def recipe(**places: str) -> Recipe:
    tree: dict[str, Any] = {"name": "shop"}
    for dotted, place in places.items():
        section, _, field = dotted.rpartition("__")
        (tree.setdefault(section, {}) if section else tree)[field] = place
    if "student__model" in places:
        tree["student"]["kind"] = "pretrained"
    if "reply__decoder" in places:
        tree["reply"] |= {"column": "response", "source": "decoder"}
    return Recipe.model_validate(tree)


@pytest.mark.parametrize(
    "value", [SIGNED, "/data/rows.csv", "s3://bucket/rows.parquet", "owner/name@v1", "embedded:shop"]
)
def test_a_place_is_what_the_variable_holds(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("ROWS", value)
    assert resolved("env:ROWS", "data.train") == value
    assert used() == ["ROWS"]
    assert resolved(value, "data.train") == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "data.train: env:ROWS: the environment variable ROWS is not set where the job runs; "),
        ("", "data.train: env:ROWS: the environment variable ROWS is not set"),
        ("rows.csv", "data.train: env:ROWS: ROWS holds no absolute path, URL or Hub id"),
        ("../rows.csv", "data.train: env:ROWS: ROWS holds no absolute path"),
        ("env:OTHER", "data.train: env:ROWS: ROWS holds no absolute path"),
    ],
)
def test_a_variable_that_holds_no_place_is_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, value: str | None, said: str
):
    monkeypatch.delenv("ROWS", raising=False)
    if value is not None:
        monkeypatch.setenv("ROWS", value)
    with pytest.raises(UsageError) as refused:
        resolved("env:ROWS", "data.train")
    assert str(refused.value).startswith(said)
    assert not value or value not in str(refused.value)


@pytest.mark.parametrize("place", ["env:", "env:MY ROWS", "env:1ST", "env:$ROWS"])
def test_what_is_no_name_of_a_variable_is_refused(place: str):
    with pytest.raises(UsageError, match=r"^data\.test: env:.*: not env:NAME, where NAME is an environment variable$"):
        resolved(place, "data.test")


@pytest.mark.parametrize("field", FIELDS)
def test_a_recipe_keeps_the_name_and_wants_the_variable_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str
):
    asks = recipe(**{field.replace(".", "__"): "env:PLACE"})
    monkeypatch.delenv("PLACE", raising=False)
    with pytest.raises(UsageError, match=rf"^{field}: env:PLACE: the environment variable PLACE is not set"):
        asks.on_driver(tmp_path, tmp_path)
    monkeypatch.setenv("PLACE", SIGNED)
    told = yaml.safe_dump(asks.on_driver(tmp_path, tmp_path).model_dump())
    assert "env:PLACE" in told
    assert "store.example" not in told


@pytest.mark.parametrize("field", FOLDERS)
def test_a_folder_that_results_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str):
    monkeypatch.setenv("PLACE", "/models/secret")
    asks = recipe(**{field.replace(".", "__"): "env:PLACE"})
    with pytest.raises(UsageError, match=rf"^{field}: env:PLACE: results show it; give the path itself$"):
        asks.on_driver(tmp_path, tmp_path)


def test_a_column_may_have_such_a_name(tmp_path: Path):
    assert recipe(data__text="env:ROWS").on_driver(tmp_path, tmp_path).data.text == "env:ROWS"


@pytest.mark.parametrize(
    "message",
    [
        f"403 at {SIGNED}, try again",
        "Max retries exceeded with url: /shop/rows.jsonl.gz?X-Signature=abc%2Fdef&X-Date=20300101 (Caused by x)",
        "not found: https://store.example/shop/rows.jsonl.gz",
        "signature abc/def: X-Signature=abc/def&X-Date=20300101",
        f"line 1\n{SIGNED}\nline 3",
    ],
)
def test_no_message_shows_the_value_or_what_opens_it(monkeypatch: pytest.MonkeyPatch, message: str):
    monkeypatch.setenv("ROWS", SIGNED)
    assert "20300101" in message or "rows.jsonl" in message  # the control
    resolved("env:ROWS", "data.train")
    told = shown_urls(message)
    assert "env:ROWS" in told
    assert not any(part in told for part in ("X-Signature", "20300101", "rows.jsonl"))


def test_a_short_value_hides_no_words():
    shown.hide("/m", "env:M")
    assert shown_urls("the query of /models/bert") == "the query of env:Models/bert"
    shown.hide("https://h/a?b=c", "env:H")
    assert shown_urls("b=c stays, /a too") == "b=c stays, /a too"
