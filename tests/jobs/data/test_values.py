"""A value means the same in every form of a file."""

from __future__ import annotations

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from configs.loader import UsageError, load
from configs.schema.data import DataSpec
from configs.schema.recipe import Recipe
from jobs.command import Result
from jobs.data.source import Row, rows, rows_with
from jobs.data.values import class_name, name_of, text_of
from tests.jobs.commands import command
from tests.jobs.data.sources import parquet, read, refusal
from tests.tiny.shop import write_locally
from tests.tiny.ways import prepare


def written(folder: Path, texts: list[str], labels: list[Any]) -> dict[str, Path]:
    """The same columns as pandas and others write them: a CSV field is what Python prints."""
    files = {kind: folder / f"rows.{kind}" for kind in ("csv", "jsonl", "parquet")}
    with files["csv"].open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
    files["jsonl"].write_text("\n".join(lines))
    parquet(folder, text=texts, label=labels)
    return files


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 20, 3], ["1", "20", "3"]),
        ([1.0, 2.33, 3.5], ["1", "2.33", "3.5"]),
        ([-0.0, 1e-7, 1e22], ["0", "0.0000001", "10000000000000000000000"]),
        ([True, False, True], ["true", "false", "true"]),
        (["007", "1,234", "1.0"], ["007", "1,234", "1"]),
        (["NA", "null", "nan"], ["NA", "null", "nan"]),
        (["1e5", "\u0663.\u0665", "v1.10"], ["1e5", "\u0663.\u0665", "v1.10"]),
        ([2**63 - 1, 2**53 + 1], [str(2**63 - 1), str(2**53 + 1)]),
    ],
    ids=["whole", "fractions", "small and large", "truths", "codes", "no missing values", "no numbers", "long"],
)
def test_a_class_has_one_name_in_all_forms(tmp_path: Path, labels: list[Any], names: list[str]):
    files = written(tmp_path, [f"text {index}" for index in range(len(labels))], labels)
    assert {kind: [row.label for row in read(file)] for kind, file in files.items()} == dict.fromkeys(files, names)


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([1, 2], pyarrow.int8()),
        pyarrow.array([1.0, 2.0]),
        pyarrow.array([Decimal("1.00"), Decimal("2.00")]),
        pyarrow.array(["1", "2"]).dictionary_encode(),
        pyarrow.array(["1.0", "2"], pyarrow.large_string()),
        pyarrow.array(["1", " 2 "], pyarrow.string_view()),
        pyarrow.array([1.0, 2.0], pyarrow.float16()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_class_has_one_name_in_every_column_of_parquet(tmp_path: Path, column: pyarrow.Array):
    parquet(tmp_path, text=["a", "b"], label=column)
    assert [row.label for row in read(tmp_path / "rows.parquet")] == ["1", "2"]


@pytest.mark.parametrize("kind", [pyarrow.float16(), pyarrow.float32(), pyarrow.float64()], ids=str)
def test_a_number_has_the_digits_that_were_written_however_wide_it_is_stored(tmp_path: Path, kind: Any):
    given = pyarrow.array([{"inch": 9.7, "sizes": [0.1, None], "none": None}], type=pyarrow.struct(
        {"inch": kind, "sizes": pyarrow.list_(kind), "none": kind}
    ))  # fmt: skip
    parquet(tmp_path, text=given, label=pyarrow.array([2.33], kind))
    assert read(tmp_path / "rows.parquet") == [
        Row("inch: 9.7; sizes: 0.1", None, "2.33", (("inch", "9.7"), ("sizes", "0.1")))
    ]


def test_maps_of_parquet_are_attributes(tmp_path: Path):
    kind = pyarrow.map_(pyarrow.string(), pyarrow.float32())
    parquet(tmp_path, text=pyarrow.array([[("inch", 9.7), ("weight", None)]], kind), label=["a"])
    assert [row.text for row in read(tmp_path / "rows.parquet")] == ["inch: 9.7"]


def test_attributes_that_only_some_rows_have_are_the_same_in_all_forms(tmp_path: Path):
    given = [{"name": "mug", "inch": 4}, {"name": "lamp", "inch": None, "tags": ["new", "sale"]}]
    lines = [json.dumps({"text": each, "label": "a"}) for each in given]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    parquet(tmp_path, text=given, label=["a", "a"])
    expected = ["name: mug; inch: 4", "name: lamp; tags: new; tags: sale"]
    for kind in ("jsonl", "parquet"):
        assert [row.text for row in read(tmp_path / f"rows.{kind}")] == expected


def test_attributes_without_any_value_are_an_empty_text(tmp_path: Path):
    parquet(tmp_path, text=[{"name": "mug"}, {"name": None}], label=["a", "a"])
    assert refusal(tmp_path / "rows.parquet") == "row 2: column 'text' is empty; remove the row or fill it"
    for nothing in ([], {}, [["name", None]], ""):
        (tmp_path / "rows.jsonl").write_text(json.dumps({"text": nothing, "label": "a"}))
        assert refusal(tmp_path / "rows.jsonl") == "line 1: column 'text' is empty; remove the row or fill it"


def answers(file: Path) -> list[str]:
    recipe = Recipe.model_validate({"name": "r", "task": "generate", "data": {"train": str(file)}})
    return [row.label for row in rows(recipe.data, "train")]


def test_a_text_to_generate_stays_as_it_is(tmp_path: Path):
    for file in written(tmp_path, ["a", "b", "c"], ["4.0", "True", "1.50 each"]).values():
        assert answers(file) == ["4.0", "True", "1.50 each"]
    assert answers(written(tmp_path, ["a"], [4])["jsonl"]) == ["4"]


@pytest.mark.parametrize("value", [4.5, True, ["a"]])
def test_a_number_with_a_fraction_or_a_truth_is_no_text_to_generate(tmp_path: Path, value: Any):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a", "label": value}))
    with pytest.raises(UsageError, match=r"line 1: column 'label' holds a \w+; text is expected"):
        answers(tmp_path / "rows.jsonl")


def test_classes_that_are_written_in_two_ways_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = written(tmp_path, ["a", "b", "c"], ["4.10", "4.1", "x"])["csv"]
    assert [row.label for row in rows(DataSpec(train=str(file)), "train", {})] == ["4.1", "4.1", "x"]
    assert caplog.messages == [f"data.train: {file}: 1 classes are written in several ways, such as '4.1' or '4.10'"]
    caplog.clear()
    list(rows(DataSpec(train=str(written(tmp_path, ["a", "b"], [4.0, 4.1])["jsonl"])), "train", {}))
    assert caplog.messages == []


@pytest.mark.parametrize("value", [None, b"a", [1], {"a": 1}, float("inf"), Decimal("NaN")])
def test_other_values_are_no_class(value: Any):
    assert class_name(value) is None


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["text", " text"], "text"),
        (["label", " text"], " text"),
        (["\ufefftext "], "\ufefftext "),
        (["Text"], None),
        ([], None),
    ],
)
def test_a_column_is_known_by_its_name_up_to_what_nobody_sees(names: list[str], found: str | None):
    assert name_of("text", names) == found


def in_forms(folder: Path) -> dict[str, str]:
    """The same rows of each split in every form, by the name of the form."""
    records = {
        split: [{"text": f"{split} {n}", "label": n % 2 + 0.5} for n in range(12)] for split in ("train", "validation")
    }
    for split, rows_ in records.items():
        texts, labels = [each["text"] for each in rows_], [each["label"] for each in rows_]
        for kind, file in written(folder, texts, labels).items():
            file.rename(folder / f"{split}.{kind}")
        (folder / f"{split}.CSV.GZ").write_bytes(gzip.compress((folder / f"{split}.csv").read_bytes()))
        (folder / split).mkdir()
        for start in (0, 5):
            part = slice(start, 5 if start == 0 else None)
            parquet(folder / split, f"part-{start}.parquet", text=texts[part], label=labels[part])
    return {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "packed": ".CSV.GZ", "parts": ""}


def test_the_same_rows_are_prepared_alike_in_every_form(
    tmp_path: Path, shop_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    keys = {}
    for name, ending in in_forms(tmp_path).items():
        files = [f"data.{split}={tmp_path / (split + ending)}" for split in ("train", "validation")]
        recipe = load(
            Recipe, shop_folder / "recipe.yaml", [*files, "data.test=null", "data.max_unknown=1", f"output={name}"]
        )
        prepared = prepare(recipe.on_driver(tmp_path / "home", tmp_path))
        keys[name] = (prepared.key, prepared.labels, prepared.manifest["fingerprints"], prepared.manifest["readings"])
    assert keys == dict.fromkeys(keys, keys["jsonl"])
    assert keys["jsonl"][1] == ["0.5", "1.5"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"text,label\ra,b\r", "line 1: not CSV: a carriage return"),
        ("rows.JSONL", b'{"text": "a", "text": "b", "label": "c"}', "line 1: column 'text' is given twice"),
        ("rows.jsonl", b'{"text": "a", "label": [1]}', "line 1: column 'label' holds a list; a class is a text"),
        ("rows/0.jsonl.bz2", b"no archive", "0.jsonl.bz2: cannot be read: "),
        ("rows/_SUCCESS", b"", "holds no rows"),
    ],
)
def test_a_refused_source_is_one_line_and_a_usage_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    said: str,
):
    monkeypatch.setenv("SLIMCART_HOME", str(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    source = tmp_path / name.partition("/")[0]
    (tmp_path / "recipe.yaml").write_text(f"name: r\ndata: {{train: {source}, validation: {source}}}\n")

    def read_rows(recipe: Recipe) -> Result:
        list(rows(recipe.data, "train"))
        return Result("prepare", "run-1", "", {})

    code, out, err = command(capsys, "--config", str(tmp_path / "recipe.yaml"), run=read_rows)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: data.train: {source}: {said}") and err.count("\n") == 1


@pytest.mark.parametrize(("value", "text"), [("00 7", "00 7"), (7, "7"), (4.0, "4"), (None, ""), (float("nan"), "")])
def test_a_further_column_is_a_text_as_it_is_written(value: Any, text: str):
    assert text_of({"order": value}, "order", "here") == text


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, float("inf"), "\ud800"])
def test_a_further_column_that_holds_no_text_is_refused_by_its_place(value: Any):
    with pytest.raises(UsageError, match=r"^here: column 'order' holds "):
        text_of({"order": value}, "order", "here")


def test_rows_come_with_the_texts_of_further_columns(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label,order\na,x,7\nb,y,\n")
    found = list(rows_with(DataSpec(train=str(tmp_path / "rows.csv")), "train", ["order"]))
    assert found == [(Row("a", None, "x"), ("7",)), (Row("b", None, "y"), ("",))]
