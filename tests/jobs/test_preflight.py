"""A given model that cannot work, by the commands themselves: nothing is begun and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cluster import session, tracking
from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs import distill, finetune, prepare, teach, tune
from jobs.preflight import check_possible, check_reply
from tests.jobs.commands import command
from tests.tiny.folders import change_json, decoder_folder, encoder_folder


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that begins fails the test."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("the job began")

    monkeypatch.setattr(tracking, "run", fail)
    monkeypatch.setattr(session, "connect", fail)


def fields(rows: Path, **sections: Any) -> dict[str, Any]:
    return {"name": "tiny", "data": {"train": str(rows / "train.jsonl"), "max_length": 32}} | sections


def cut(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    return "model.safetensors: cannot be read"


def without_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "holds no tokenizer"


def of_more_tokens(folder: Path) -> str:
    change_json(folder / "config.json", pad_token_id=70)
    return "pad_token_id: 70: the token table has 15 rows"


@pytest.mark.parametrize("harm", [cut, without_tokenizer, of_more_tokens])
@pytest.mark.parametrize("field", ["teacher", "student"])
@pytest.mark.usefixtures("begun")
def test_prepare_refuses_a_model_in_one_line_and_leaves_nothing(
    harm: Callable[[Path], str],
    field: str,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder = encoder_folder(tmp_path / "model")
    capsys.readouterr()
    said = harm(folder)
    kind = ["student.kind=pretrained"] if field == "student" else []
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: tiny\ndata: {max_length: 32}\n", encoding="utf-8")
    given = ["--config", str(recipe), f"{field}.model={folder}", *kind]
    code, out, err = command(capsys, *given, run=prepare.run)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"error: {field}.model: {folder}: ")
    assert said in err
    assert not home.exists()


@pytest.mark.parametrize("verb", [prepare, finetune, teach, distill, tune])
@pytest.mark.usefixtures("begun")
def test_every_verb_that_needs_a_model_inspects_it_first(verb: Any, tmp_path: Path):
    folder = encoder_folder(tmp_path / "model")
    without_tokenizer(folder)
    with pytest.raises(UsageError, match=r"^teacher\.model: .* holds no tokenizer"):
        verb.run(Recipe.model_validate(fields(tmp_path, teacher={"model": str(folder)})))


@pytest.mark.parametrize("task", ["classify", "generate"])
def test_a_sound_model_lets_them_begin(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Begun(Exception):
        pass

    def begin(*_: Any, **__: Any) -> NoReturn:
        raise Begun

    monkeypatch.setattr(tracking, "run", begin)
    make = encoder_folder if task == "classify" else decoder_folder
    folder = make(tmp_path / "model")
    for verb in (prepare, finetune, teach):
        with pytest.raises(Begun):
            verb.run(Recipe.model_validate(fields(tmp_path, task=task, teacher={"model": str(folder)})))


@pytest.mark.parametrize("layers", [4, [0, 3]])
def test_layers_that_a_teacher_lacks_are_refused_before_anything_runs(layers: Any, tmp_path: Path):
    folder = encoder_folder(tmp_path / "model", "mpnet")
    sections = {"teacher": {"model": str(folder)}, "student": {"layers": layers}}
    with pytest.raises(UsageError, match=r"^student\.layers: "):
        check_possible(Recipe.model_validate(fields(tmp_path, **sections)))


def test_replies_that_rows_have_no_column_for_are_refused_before_the_job(tmp_path: Path):
    for split, columns in (
        ("train", "text,label,said,order"),
        ("validation", "text,label,said"),
        ("test", "text,label"),
    ):
        (tmp_path / f"{split}.csv").write_text(f"{columns}\n")

    def refusal(**reply: Any) -> str:
        data = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation", "test")}
        with pytest.raises(UsageError) as refused:
            check_reply(Recipe.model_validate({"name": "x", "data": data, "reply": reply}))
        return str(refused.value)

    assert "train.csv: no column 'reply'; columns here: text, label, said, order" in refusal(column="reply")
    assert "validation.csv: no column 'order'" in refusal(column="said", fields=["order"])
    (tmp_path / "validation.csv").write_text("text,label,said,order\n")
    assert "test.csv: no column 'order'" in refusal(column="said", fields=["order"])
    decoder = {"source": "decoder", "decoder": str(tmp_path)}
    assert refusal(column="said", **decoder) == f"reply.decoder: {tmp_path}: holds no bundle"
    with pytest.raises(UsageError, match=r"data\.train: embedded:shop: no column 'said'; columns here: text, label"):
        check_reply(Recipe.model_validate({"name": "x", "reply": {"column": "said"}}))
