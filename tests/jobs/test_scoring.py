"""Answers to rows without a cluster: those of the endpoint, in every form of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import requests

from configs.loader import UsageError
from configs.schema.serving import ServingSpec
from jobs.scoring import MANIFEST, Answer, Asking
from serving.endpoint import create_app
from serving.reply import Replies, Templates, with_replies
from serving.service import put_in_service
from tests.serving.test_checked import write_checked
from tests.serving.test_writing import SCRIPT
from tests.tiny.bundles import LABELS, write_tiny_bundle
from tests.tiny.decoders import write_tiny_decoder
from tests.tiny.scores import asking_of, parts_of, written_rows
from tests.tiny.services import answering

TEXTS = ["where is my order", "cancel it", "a refund please, now", "is it my order", "now"]
SPEC = ServingSpec.model_validate({})


def write_replies(folder: Path) -> None:
    write_tiny_bundle(folder.with_name("classifier"))
    own = {label: [f"{label}: {{{{Order Number}}}}"] for label in LABELS[:2]}
    replies = Replies(Templates(fields=["Order Number"], templates=own), 0.4)
    with_replies(folder.with_name("classifier"), folder, replies, {})


BUNDLES: dict[str, Any] = {
    "classify": write_tiny_bundle,
    "pairs": lambda folder: write_tiny_bundle(folder, pairs=True),
    "generate": lambda folder: write_tiny_decoder(folder, max_length=24),
    "checked": lambda folder: write_checked(folder, SCRIPT.encode(), given=True),
    "conversations": lambda folder: write_tiny_decoder(
        folder, template="{% for each in messages %}{{ each.content }}.{% endfor %}"
    ),
    "reply": write_replies,
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "pairs": [{"id": n, "first": text, "second": "my order"} for n, text in enumerate(TEXTS)],
    "conversations": [{"id": n, "first": [{"role": "user", "content": text}]} for n, text in enumerate(TEXTS)],
    "reply": [{"id": n, "first": text, "Order Number": "7" if n % 2 else None} for n, text in enumerate(TEXTS)],
}


def request_of(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client asks about the rows."""
    if name == "pairs":
        return {"inputs": [{"text": row["first"], "text_pair": row["second"]} for row in rows]}
    if name == "conversations":
        return {"inputs": [{"messages": row["first"]} for row in rows]}
    further = {"fields": [{"Order Number": row["Order Number"]} for row in rows]} if name == "reply" else {}
    return {"inputs": [row["first"] for row in rows], **further}


def answered(folder: Path, rows: list[dict[str, Any]], ask: Asking, **data: Any) -> Path:
    """The folder of the first part."""
    with parts_of(folder, rows, ask, text="first", **data) as parts:
        Answer(str(folder / "parts"), ask.model_dump(), parts)({"item": np.arange(len(parts.rows))})
    return folder / "parts" / "part-00000"


def plain(value: Any) -> Any:
    """Floats of two batches are as near as sums in another order are."""
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.parametrize("name", BUNDLES)
def test_a_row_has_what_the_endpoint_answers(name: str, tmp_path: Path):
    BUNDLES[name](tmp_path / "bundle")
    rows = ROWS.get(name) or [{"id": n, "first": text} for n, text in enumerate(TEXTS)]
    ask = asking_of(tmp_path / "bundle")
    pair = {"text_pair": "second"} if name == "pairs" else {}
    found = written_rows(answered(tmp_path, rows, ask, **pair))
    service = put_in_service("tiny", ask.release, SPEC)
    with answering(create_app("tiny", SPEC, lambda: service)) as address:
        said = requests.post(f"{address}/v1/tiny", json=request_of(name, rows), timeout=30).json()
    assert len(found) == len(rows)
    for row, each, answer in zip(rows, found, said["predictions"], strict=True):
        wanted = dict.fromkeys(ask.answers) | answer
        assert each == row | {key: plain(value) for key, value in wanted.items()} | {
            "model": said["model"]["name"],
            "version": said["model"]["version"],
        }


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_all_forms_say_the_same(form: str, tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    rows = [{"id": 7, "first": 'where, "is" it\nnow', "price": 2.5, "tags": ["a", "b"]}, {"id": 8, "first": "cancel"}]
    ask = asking_of(tmp_path / "bundle", format=form, scores=True, details=True, prefix="said_")
    first, second = written_rows(answered(tmp_path, rows, ask))
    scores = first["said_scores"] if form != "csv" else json.loads(first["said_scores"])
    assert list(scores) == LABELS and scores[first["said_label"]] == float(first["said_score"])
    assert float(first["said_unknown"]) == pytest.approx(3 / 7)
    assert str(first["said_cut"]).lower() == "false"
    tags = first["tags"] if form != "csv" else json.loads(first["tags"])
    assert (str(first["id"]), first["first"], float(first["price"]), tags) == ("7", rows[0]["first"], 2.5, ["a", "b"])
    assert (str(second["id"]), second.get("price") or None) == ("8", None)
    assert (second["said_model"], second["said_version"]) == ("tiny", ask.release.version)


def test_the_columns_named_are_kept_and_no_others(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    rows = [{"id": n, "first": text, "label": "gold"} for n, text in enumerate(TEXTS)]
    kept = written_rows(answered(tmp_path, rows, asking_of(tmp_path / "bundle", keep=["id"])))
    assert [each["id"] for each in kept] == list(range(len(TEXTS)))
    assert all(set(each) == {"id", "label", "score", "model", "version"} for each in kept)
    (tmp_path / "none").mkdir()
    nothing = answered(tmp_path / "none", rows, asking_of(tmp_path / "bundle", keep=[], format="parquet"))
    names = pyarrow.parquet.read_schema(nothing / "part-00000.parquet").names
    assert names == ["label", "score", "model", "version"]


def test_parts_of_parquet_have_one_schema_whatever_each_of_them_holds(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    rows = [{"first": "now", "n": 1}, {"first": "now", "n": 2.5, "more": "a"}, {"first": "now", "n": None}]
    ask = asking_of(tmp_path / "bundle", format="parquet", rows_per_file=1)
    place = answered(tmp_path, rows, ask).parent
    schemas = [pyarrow.parquet.read_schema(each) for each in sorted(place.glob("*/*.parquet"))]
    assert len(schemas) == 3 and schemas[0].equals(schemas[1]) and schemas[1].equals(schemas[2])
    table = pyarrow.concat_tables(pyarrow.parquet.read_table(each) for each in sorted(place.glob("*/*.parquet")))
    assert table["n"].to_pylist() == [1, 2.5, None] and table["more"].to_pylist() == [None, "a", None]


def test_a_row_that_the_service_refuses_has_its_reason_and_the_others_their_answers(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle", max_length=24)
    rows = [{"first": "short"}, {"first": "far too long a text for this one"}, {"first": "also short"}]
    ask = asking_of(tmp_path / "bundle")
    folder = answered(tmp_path, rows, ask)
    first, second, third = written_rows(folder)
    assert second["text"] is None and second["reason"] == "has 33 tokens; this model reads at most 23"
    assert first["text"] and third["text"] and first["reason"] is None
    assert json.loads((folder / MANIFEST).read_bytes())["refused"] == 1


def test_a_classifier_that_cannot_answer_a_row_names_it(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    ask = asking_of(tmp_path / "bundle")
    with parts_of(tmp_path, [{"first": "now"}] * 3, ask, text="first") as parts:
        answer = Answer(str(tmp_path / "parts"), ask.model_dump(), parts)
        rows = parts.read(0)
        rows[2] = rows[2]._replace(input=["no text"])
        with pytest.raises(UsageError, match=r"asked\.jsonl: line 3: is not a text$"):
            answer.answers(rows)


def test_a_part_that_is_there_is_not_answered_again_and_a_damaged_one_is(tmp_path: Path):
    write_tiny_bundle(tmp_path / "bundle")
    ask = asking_of(tmp_path / "bundle", rows_per_file=2)
    with parts_of(tmp_path, [{"first": text} for text in TEXTS], ask, text="first") as parts:
        answer = Answer(str(tmp_path / "parts"), ask.model_dump(), parts)
        everything = {"item": np.arange(3)}
        assert answer(everything)["now"].tolist() == [2, 2, 1]
        with (tmp_path / "parts" / "part-00001" / "part-00001.jsonl").open("a") as file:
            file.write("{}\n")
        assert answer(everything)["now"].tolist() == [0, 2, 0]
        assert answer(everything)["rows"].tolist() == [2, 2, 1]


def test_what_a_bundle_has_not_to_tell_is_refused(tmp_path: Path):
    write_tiny_decoder(tmp_path / "bundle")
    with pytest.raises(UsageError, match=r"^score\.scores: true: bundles of task 'generate' have none to tell; leave"):
        asking_of(tmp_path / "bundle", scores=True)
