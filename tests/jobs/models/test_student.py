from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AlbertConfig, AlbertModel

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import LAYERS
from jobs.models.student import choose_layers, encoder_student
from tests.tiny.models import CLASSES, POSITIONS, VOCABULARY, batch, encoder_classifier

KINDS = ["bert", "roberta", "distilbert", "modernbert"]


@pytest.mark.parametrize(
    ("asked", "count", "chosen"),
    [
        (1, 6, [0]),
        (2, 6, [0, 5]),
        (3, 6, [0, 2, 5]),
        (4, 6, [0, 2, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (3, 12, [0, 6, 11]),
        (6, 12, [0, 2, 4, 7, 9, 11]),
        (1, 1, [0]),
        ([4, 1], 6, [4, 1]),
        ([0], 1, [0]),
    ],
)
def test_layers_are_those_asked_for_or_spread_from_first_to_last(asked: int | list[int], count: int, chosen: list[int]):
    assert choose_layers(asked, count) == chosen


@pytest.mark.parametrize("count", range(1, 30))
def test_spread_layers_are_different_and_in_order(count: int):
    for asked in range(1, count + 1):
        chosen = choose_layers(asked, count)
        assert chosen == sorted(set(chosen)) and len(chosen) == asked
        assert chosen[0] == 0 and (asked == 1 or chosen[-1] == count - 1)


@pytest.mark.parametrize("asked", [7, [6], [0, 0], [0, 99], []])
def test_layers_that_the_teacher_does_not_have_are_refused(asked: int | list[int]):
    with pytest.raises(UsageError, match=r"student\.layers") as refused:
        choose_layers(asked, 6)
    assert "6" in str(refused.value) or "0 to 5" in str(refused.value)


@pytest.mark.parametrize("layers", [2, [0, 3]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_has_the_teachers_embeddings_head_and_chosen_layers(kind: str, layers: int | list[int]):
    teacher = encoder_classifier(kind, layers=4)
    student = encoder_student(teacher, StudentSpec(layers=layers))
    path, ours, theirs = f"encoder.{LAYERS[kind]}.", student.state_dict(), teacher.state_dict()
    assert student.encoder.config.num_hidden_layers == 2
    for name, weight in ours.items():
        number, _, rest = name.removeprefix(path).partition(".")
        origin = f"{path}{[0, 3][int(number)]}.{rest}" if name.startswith(path) else name
        assert torch.equal(weight, theirs[origin]), name
    assert {name for name in theirs if not name.startswith(path)} <= ours.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_answers_like_the_teacher_without_the_other_layers(kind: str):
    teacher, given = encoder_classifier(kind, layers=4), batch(3, 12)
    student = encoder_student(teacher, StudentSpec(layers=[0, 2, 1])).eval()
    with torch.inference_mode():
        whole_BC = teacher(**given)
        layers = teacher.encoder.get_submodule(LAYERS[kind])
        assert isinstance(layers, torch.nn.ModuleList)
        place, _, name = LAYERS[kind].rpartition(".")
        setattr(teacher.encoder.get_submodule(place), name, torch.nn.ModuleList(layers[index] for index in (0, 2, 1)))
        teacher.encoder.config.num_hidden_layers = 3
        torch.testing.assert_close(student(**given), teacher(**given))
        assert not torch.allclose(student(**given), whole_BC, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_all_layers_is_the_teacher(kind: str):
    teacher, given = encoder_classifier(kind, layers=3, pooling="cls"), batch(3, 12)
    student = encoder_student(teacher, StudentSpec(layers=3)).eval()
    with torch.inference_mode():
        assert torch.equal(student(**given), teacher(**given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_student_answers_as_before(kind: str, tmp_path: Path):
    student, given = (
        encoder_student(encoder_classifier(kind, layers=4), StudentSpec(layers=[0, 3])).eval(),
        batch(3, 30),
    )
    encoder.save(student, tmp_path)
    with torch.inference_mode():
        assert torch.equal(encoder.load(tmp_path)(**given), student(**given))


def test_training_the_student_leaves_the_teacher_alone():
    teacher = encoder_classifier(layers=3)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = encoder_student(teacher, StudentSpec(layers=2))
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert teacher.encoder.config.num_hidden_layers == 3


def test_a_students_dropout_is_its_own():
    teacher = encoder_classifier(layers=3)
    rates = {
        dropout: {
            module.p
            for module in encoder_student(teacher, StudentSpec(layers=2, dropout=dropout)).modules()
            if isinstance(module, torch.nn.Dropout)
        }
        for dropout in (0.0, 0.2)
    }
    assert rates == {0.0: {0.0}, 0.2: {0.2}}


def test_a_layer_that_cannot_be_the_first_is_a_usage_error():
    with pytest.raises(UsageError, match=r"student\.layers: \[1, 2\]: .*keep layer 0 first"):
        encoder_student(encoder_classifier("modernbert", layers=3), StudentSpec(layers=[1, 2]))


def test_an_encoder_whose_layers_are_unknown_is_a_usage_error():
    config = AlbertConfig(vocab_size=60, embedding_size=16, hidden_size=32, num_attention_heads=2, intermediate_size=64)
    with pytest.raises(UsageError, match="'albert' has no list of layers to choose from"):
        encoder_student(EncoderClassifier(AlbertModel(config), "mean", 3), StudentSpec(layers=1))


def test_a_student_of_a_graded_teacher_is_graded():
    base = encoder_classifier()
    teacher = EncoderClassifier(base.encoder, "mean", [0.0, 1.0, 2.0]).eval()
    student = encoder_student(teacher, StudentSpec(layers=1))
    assert student.classes == [0.0, 1.0, 2.0]
    torch.testing.assert_close(student.head.state_dict(), teacher.head.state_dict())


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_new_student_has_the_sizes_asked_for_and_weights_of_its_own(kind: str, tmp_path: Path):
    teacher, given = encoder_classifier(kind, layers=1), batch(3, 12)
    spec = StudentSpec(kind="new", layers=2, hidden=48, heads=4, feed_forward=24)
    student = encoder_student(teacher, spec).eval()
    width, units, types = 48, 24, {"bert": 2, "roberta": 1, "distilbert": 0}[kind]
    tables = (VOCABULARY + POSITIONS + types) * width + 2 * width
    layer = 4 * (width * width + width) + (2 * units * width + units + width) + 2 * 2 * width
    assert sum(each.numel() for each in student.parameters()) == tables + 2 * layer + CLASSES * (width + 1)
    assert (student.pooling, student.classes) == (teacher.pooling, teacher.classes)
    encoder.save(student, tmp_path)
    with torch.inference_mode():
        assert torch.equal(encoder.load(tmp_path)(**given), student(**given))


def test_a_new_student_without_sizes_is_as_wide_as_its_teacher():
    student = encoder_student(encoder_classifier("modernbert"), StudentSpec(kind="new", layers=1))
    assert student.encoder.config.hidden_size == 32
    assert student.encoder.config.num_hidden_layers == 1


def test_a_pretrained_student_has_its_models_weights_and_the_teachers_classes(tmp_path: Path):
    encoder_classifier("distilbert").encoder.save_pretrained(tmp_path)
    spec = StudentSpec(kind="pretrained", model=str(tmp_path), pooling="mean", dropout=0.2)
    student = encoder_student(EncoderClassifier(encoder_classifier().encoder, "cls", [0.0, 1.0, 2.0]), spec)
    expected = encoder_classifier("distilbert").encoder.state_dict()
    torch.testing.assert_close(student.encoder.state_dict(), expected, rtol=0, atol=0)
    assert (student.pooling, student.classes) == ("mean", [0.0, 1.0, 2.0])
    assert {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)} == {0.2}


def test_a_student_model_that_is_not_there_is_named_by_its_field(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^student\.model: .*: cannot be loaded"):
        encoder_student(encoder_classifier(), StudentSpec(kind="pretrained", model=str(tmp_path)))
