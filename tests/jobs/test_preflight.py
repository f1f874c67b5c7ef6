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


@pytest.mark.parametrize("task", ["classify", "generate"])
@pytest.mark.usefixtures("begun")
def test_an_adapter_on_a_matrix_that_is_not_there_is_refused_before_workers(task: str, tmp_path: Path):
    kind = {"classify": encoder_folder, "generate": decoder_folder}[task]
    model, of = str(kind(tmp_path / "model")), {"classify": "qury", "generate": "c_atn"}[task]
    near = {"classify": "query", "generate": "c_attn"}[task]
    for section in (
        {"teacher": {"model": model, "adapter": {"modules": [of]}}},
        {"student": {"adapter": {"modules": [of]}}},
    ):
        recipe = Recipe.model_validate(fields(tmp_path, task=task, **{"teacher": {"model": model}} | section))
        field = "student" if "student" in section else "teacher"
        said = rf"^{field}\.adapter\.modules: '{of}': no matrix of a \w+ model; did you mean '{near}'\?$"
        with pytest.raises(UsageError, match=said):
            (distill if field == "student" else finetune).run(recipe)


@pytest.mark.usefixtures("begun")
def test_a_step_shrink_that_a_student_cannot_take_is_refused_before_it_is_trained(tmp_path: Path):
    model = str(decoder_folder(tmp_path / "model", "llama"))
    given = {"task": "generate", "teacher": {"model": model}, "student": {"layers": 2}}
    for step, said in (
        ({"layers": 3}, r"shrink\.layers: 3: the model has 2"),
        ({"speedup": 2}, r"shrink\.speedup: the "),
    ):
        steps = [{"step": "shrink", **step}, {"step": "export"}]
        with pytest.raises(UsageError, match=rf"^compression\.{said}"):
            check_possible(Recipe.model_validate(fields(tmp_path, compression=steps, **given)))
    unknown = given | {"teacher": {"model": str(decoder_folder(tmp_path / "other", "gemma"))}}
    steps = [{"step": "shrink", "layers": 1}, {"step": "export"}]
    with pytest.raises(
        UsageError, match=r"^compression\.shrink: no heads and units known for 'gemma' models; for bert,"
    ):
        check_possible(Recipe.model_validate(fields(tmp_path, compression=steps, **unknown)))
    check_possible(Recipe.model_validate(fields(tmp_path, compression=steps, **given)))


@pytest.mark.usefixtures("begun")
def test_a_narrower_student_is_tried_as_it_will_be_exported(tmp_path: Path):
    model = str(decoder_folder(tmp_path / "model", "llama", num_attention_heads=4, num_key_value_heads=2))
    given = {"task": "generate", "teacher": {"model": model}}
    check_possible(Recipe.model_validate(fields(tmp_path, student={"layers": 2, "heads": 2}, **given)))
    with pytest.raises(UsageError, match=r"^student\.heads: 3: 4 heads share 2 of keys and values"):
        check_possible(Recipe.model_validate(fields(tmp_path, student={"layers": 2, "heads": 3}, **given)))
