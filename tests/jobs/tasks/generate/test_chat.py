"""Rows that are conversations, from the file to the tokens, and to the same words in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from configs.loader import UsageError
from configs.schema.recipe import Recipe
from jobs.data.prepared import Prepared
from jobs.models.loading import chat_template_of
from jobs.models.reference import read_reference, write_reference
from jobs.tasks.generate.chat import OURS
from serving.bundle import CHAT_TEMPLATE
from serving.conversation import Conversation, read_conversation
from serving.inputs import InputError
from tests.tiny.folders import END, change_json, decoder_folder
from tests.tiny.shop import write_locally
from tests.tiny.ways import prepare

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "You work in a shop."},
    {"role": "user", "content": "where is my 订单"},
    {"role": "assistant", "content": "which one?"},
    {"role": "user", "content": "number 7"},
    {"role": "assistant", "content": "it is on its way"},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A decoder of bytes with a chat template."""
    folder = decoder_folder(tmp_path / "model", max_position_embeddings=256, n_positions=256)
    (folder / CHAT_TEMPLATE).write_text(TEMPLATE)
    return folder


def recipe(tmp_path: Path, model: Path | str, rows: list[dict[str, Any]], **data: Any) -> Recipe:
    tmp_path.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        lines = [row | {"id": f"{split}{number}"} for number, row in enumerate(rows)]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
    columns = {"text": "messages", "label": "messages", "max_length": 200, "test": None}
    return Recipe.model_validate(
        {
            "name": "talk",
            "task": "generate",
            "output": str(tmp_path / "output"),
            "data": {**files, **columns, **data},
            "teacher": {"model": str(model)},
            "student": {"layers": 1},
        }
    )


def prepared(made: Recipe, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr("jobs.data.tokenise.write_shards", write_locally)
    return prepare(made)


def test_the_models_own_template_words_a_row_and_its_answer_alone_is_learned(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    found = prepared(recipe(tmp_path, model, [{"messages": TALK}] * 2), monkeypatch).examples("train")
    theirs: Any = AutoTokenizer.from_pretrained(model)
    before = theirs.apply_chat_template(TALK[:-1], add_generation_prompt=True, tokenize=False)
    whole = theirs.apply_chat_template(TALK, tokenize=False)
    ids, learned = found.ids[: found.offsets[1]].tolist(), found.types[: found.offsets[1]].astype(bool)
    assert theirs.decode(ids) == whole.rstrip("\n")
    read, said = ([each for each, own in zip(ids, learned, strict=True) if own == kind] for kind in (False, True))
    assert theirs.decode(read) == before
    assert theirs.decode(said) == f"it is on its way{END}"


def test_a_bundle_words_what_it_is_asked_as_its_rows_were(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    from jobs.models import decoder

    rows = prepared(recipe(tmp_path, model, [{"messages": TALK}] * 2), monkeypatch)
    folder = tmp_path / "teacher"
    write_reference(folder, decoder.from_pretrained(str(model), 200), rows, "chat", {}, {})
    bundle = read_reference(folder, "")
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    conversation = read_conversation(folder, bundle, tokenizer.backend_tokenizer)
    assert conversation
    asked = conversation.of_input({"messages": TALK[:-1]}, 0)
    assert asked == tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True, tokenize=False)
    one = [{"role": "user", "content": "hello"}]
    assert conversation.of_input("hello", 0) == conversation.of_input({"messages": one}, 0)
    for wrong in (
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": []},
        {"messages": "x"},
        {"text": "x"},
        f"a {END}",
    ):
        with pytest.raises(InputError, match=r"^input 3"):
            conversation.of_input(wrong, 3)


def test_a_prompt_is_what_a_user_says_where_a_recipe_asks_for_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"q": "where is it", "a": "on its way"}, {"q": "when", "a": "in May"}]
    columns = {"text": "q", "label": "a"}
    plain = prepared(recipe(tmp_path / "plain", model, rows, **columns), monkeypatch)
    chat = prepared(recipe(tmp_path / "chat", model, rows, **columns, chat=True), monkeypatch)
    theirs: Any = AutoTokenizer.from_pretrained(model)
    assert theirs.decode(first(plain)) == f"where is it\non its way{END}"
    said = [{"role": "user", "content": "where is it"}]
    asked = theirs.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert theirs.decode(first(chat)) == f"{asked}on its way{END}"
    assert not (plain.folder / CHAT_TEMPLATE).exists()
    assert plain.key != chat.key


def first(rows: Prepared) -> list[int]:
    found = rows.examples("train")
    return found.ids[: found.offsets[1]].tolist()


def test_an_answer_may_stand_in_a_column_of_its_own(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"messages": TALK[:4], "answer": "it is on its way"}] * 2
    own = prepared(recipe(tmp_path / "own", model, rows, label="answer"), monkeypatch)
    last = prepared(recipe(tmp_path / "last", model, [{"messages": TALK}] * 2), monkeypatch)
    assert first(own) == first(last)


def test_a_model_with_new_weights_has_a_template_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = prepared(recipe(tmp_path, "new:gpt2", [{"messages": TALK}] * 2), monkeypatch)
    assert (rows.folder / CHAT_TEMPLATE).read_text() == OURS
    assert Conversation(OURS, ()).prompt(TALK[1:2]) == "user: where is my 订单\nassistant: "


@pytest.mark.parametrize(
    ("rows", "data", "said"),
    [
        ([{"messages": TALK[:-1]}], {}, r"its last message is by role 'user' and 3 stand before it"),
        ([{"messages": TALK[4:]}], {}, r"by role 'assistant' and 0 stand before it"),
        ([{"messages": [{"role": "bot", "content": "x"}]}], {}, r"line 1: column 'messages': a conversation is a list"),
        ([{"messages": [{"role": "user", "content": ["x"]}]}], {}, r"a conversation is a list of objects with role"),
        ([{"messages": TALK, "a": "x"}, {"messages": "hi", "a": "x"}], {"label": "a"}, r"1 conversations among 2 rows"),
        (
            [{"messages": TALK}],
            {"chat": False},
            r"^data\.chat: False: column 'messages' of data\.train: ",
        ),
        ([{"messages": [["a", "b"]], "a": "x"}], {"label": "a", "chat": True}, r"^data\.chat: True: attributes and"),
    ],
)
def test_rows_that_are_no_conversations_are_refused_in_one_line(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], data: dict[str, Any], said: str
):
    with pytest.raises(UsageError, match=said) as error:
        prepared(recipe(tmp_path, model, rows, **data), monkeypatch)
    assert len(str(error.value).splitlines()) == 1
    assert "订单" not in str(error.value)


def test_all_splits_have_one_form(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    told = recipe(tmp_path, model, [{"messages": TALK, "a": "x"}], label="a")
    (tmp_path / "validation.jsonl").write_text('{"messages": "hi", "a": "x"}\n')
    with pytest.raises(UsageError, match=r"^data\.validation: .* holds 0 conversations among 1 rows; give all"):
        prepared(told, monkeypatch)
    (tmp_path / "validation.jsonl").write_text('{"messages": "hi", "a": "x"}\n')
    (tmp_path / "train.jsonl").write_text('{"messages": "hello", "a": "x"}\n{"messages": [["a", "b"]], "a": "x"}\n')
    with pytest.raises(UsageError, match=r"^data\.chat: True: attributes and"):
        prepared(told.model_copy(update={"data": told.data.model_copy(update={"chat": True})}), monkeypatch)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, r"^teacher\.model: .*: its tokenizer has no chat template to word conversations; give a model with one"),
        ("{{ raise_exception('no') }}", r"its chat template cannot word a conversation"),
        ("{% for", r"its chat template cannot word a conversation: unexpected"),
        (TEMPLATE.replace("[{{", "[assistant 2: {{"), r"writes an answer otherwise than right behind the prompt"),
        (
            TEMPLATE.replace("{{ eos_token }}", "</s>"),
            r"ends an answer with \"</s>\", and its config texts with",
        ),
    ],
)
def test_a_template_that_words_answers_otherwise_is_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, template: str | None, said: str
):
    (model / CHAT_TEMPLATE).unlink() if template is None else (model / CHAT_TEMPLATE).write_text(template)
    with pytest.raises(UsageError, match=said):
        prepared(recipe(tmp_path, model, [{"messages": TALK}] * 2), monkeypatch)


def test_special_tokens_are_written_out(tmp_path: Path, model: Path):
    template = chat_template_of(str(model))
    assert template and "eos_token = " in template
    (model / CHAT_TEMPLATE).unlink()
    assert chat_template_of(str(model)) is None
    change_json(model / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    assert chat_template_of(str(model)).endswith("{{ messages[0].content }}")  # pyright: ignore[reportOptionalMemberAccess]


def test_a_conversation_has_no_style_or_length_beside_it(tmp_path: Path, model: Path):
    for field, told in (("style", {"style": "id"}), ("lengths", {"lengths": [3, 5]})):
        with pytest.raises(UsageError, match=f"^data.{field}: a conversation says itself how"):
            prepare(recipe(tmp_path, model, [{"messages": TALK}] * 2, **told))
