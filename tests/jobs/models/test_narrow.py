from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import LAYERS
from jobs.models.student import encoder_student
from tests.tiny.models import CLASSES, POSITIONS, VOCABULARY, batch, encoder_classifier

KINDS = ["bert", "roberta", "distilbert"]  # 32 wide, 2 heads, 64 feed-forward units
ATTENTION, HIDDEN, UNITS = "attention", "hidden", "units"
AXES = {  # what the rows and columns of a layer's matrices are
    r"(query|key|value|[qkv]_lin)$": (ATTENTION, HIDDEN),
    r"(attention\.output\.dense|out_lin)$": (HIDDEN, ATTENTION),
    r"(intermediate\.dense|lin1)$": (UNITS, HIDDEN),
    r"(\d\.output\.dense|lin2)$": (HIDDEN, UNITS),
}


def student(teacher: EncoderClassifier, layers: int = 2, **sizes: int) -> EncoderClassifier:
    return encoder_student(teacher, StudentSpec(layers=layers, **sizes)).eval()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_as_wide_as_its_teacher_has_its_very_weights(kind: str):
    teacher = encoder_classifier(kind)
    same = student(teacher, hidden=32, heads=2, feed_forward=64)
    torch.testing.assert_close(same.state_dict(), teacher.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_as_many_as_the_sizes_say(kind: str):
    width, units, types = 12, 20, {"bert": 2, "roberta": 1, "distilbert": 0}[kind]
    made = student(encoder_classifier(kind, layers=3), hidden=width, heads=2, feed_forward=units)
    tables = (VOCABULARY + POSITIONS + types) * width + 2 * width
    layer = 4 * (width * width + width) + (2 * units * width + units + width) + 2 * 2 * width
    assert sum(each.numel() for each in made.parameters()) == tables + 2 * layer + CLASSES * (width + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("heads", "size"), [(1, 16), (2, 8), (2, 6), (1, 10)], ids=str)
def test_what_zeros_were_put_around_is_found_again(kind: str, heads: int, size: int):
    """A narrow model's weights are spread over a teacher of zeros, and taken out of it."""
    torch.manual_seed(heads * size)
    inner = student(encoder_classifier(kind), hidden=heads * size, heads=heads, feed_forward=24)
    with torch.no_grad():
        for weight in inner.parameters():
            weight.normal_()
    teacher = surrounded(inner, encoder_classifier(kind), heads, size)
    found = student(teacher, hidden=heads * size, heads=heads, feed_forward=24)
    torch.testing.assert_close(found.state_dict(), inner.state_dict())


def surrounded(inner: EncoderClassifier, teacher: EncoderClassifier, heads: int, size: int) -> EncoderClassifier:
    """`teacher` with the weights of `inner` at random places, in their order, and zeros at all others."""

    def some(count: int, of: int) -> torch.Tensor:
        return torch.randperm(of)[:count].sort().values

    hidden, kept = some(heads * size, 32), some(heads, 2)
    in_layers = inner.get_submodule(f"encoder.{LAYERS[inner.encoder.config.model_type]}")
    places = {}
    for number, _ in enumerate(in_layers.children()):
        scores, values = ((kept[:, None] * 16 + torch.stack([some(size, 16)] * heads)).flatten() for _ in range(2))
        places[number] = {"scores": scores, "values": values, UNITS: some(24, 64), HIDDEN: hidden}
    target = teacher.state_dict()
    for name, weight in inner.state_dict().items():
        module, _, kind = name.rpartition(".")
        layer = re.search(r"layer\.(\d+)\.", name)
        axes = next((axes for end, axes in AXES.items() if layer and re.search(end, module)), None)
        if name == "head.bias":
            target[name].copy_(weight)
            continue
        target[name].zero_()
        if axes is None:
            target[name][..., hidden] = weight
            continue
        assert layer
        own = places[int(layer[1])]
        own[ATTENTION] = own["scores" if re.search(r"(query|key|[qk]_lin)$", module) else "values"]
        rows, columns = (own[axis] for axis in axes)
        scale = (16 / size) ** 0.5 if re.search(r"(query|q_lin)$", module) else 1
        if kind == "bias":
            target[name][rows] = scale * weight
        else:
            target[name][rows[:, None], columns] = scale * weight
    return teacher


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_write_nothing_are_left_out_without_a_trace(kind: str):
    teacher, given = encoder_classifier(kind), batch(3, 12)
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if re.search(r"(\d\.output\.dense|lin2)\.weight$", name):
                weight[:, torch.randperm(64)[:24]] = 0
    made = student(teacher, feed_forward=40)
    with torch.inference_mode():
        torch.testing.assert_close(made(**given), teacher(**given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrower_student_is_loaded_as_it_was_saved(kind: str, tmp_path: Path):
    made, given = student(encoder_classifier(kind), hidden=24, heads=2, feed_forward=40), batch(3, 12)
    encoder.save(made, tmp_path)
    with torch.inference_mode():
        assert torch.equal(encoder.load(tmp_path)(**given), made(**given))


def test_a_narrower_student_of_a_graded_teacher_is_graded():
    teacher = EncoderClassifier(encoder_classifier().encoder, "mean", [0.0, 1.0, 2.0])
    made = student(teacher, hidden=16)
    assert made.classes == [0.0, 1.0, 2.0]
    assert made(**batch(3, 12)).shape == (3, 3)


def test_the_teacher_stays_as_it_was():
    teacher, again = encoder_classifier(), encoder_classifier()
    student(teacher, hidden=16, feed_forward=8)
    torch.testing.assert_close(teacher.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert teacher.encoder.config.to_dict() == again.encoder.config.to_dict()


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden": 64}, "student.hidden: 64: the teacher has 32 to choose from"),
        ({"heads": 4}, "student.heads: 4: the teacher has 2 to choose from"),
        ({"feed_forward": 65}, "student.feed_forward: 65: the teacher has 64 to choose from"),
        ({"hidden": 15}, "student.hidden: 15: 2 heads cannot share it; give a multiple, or student.heads"),
        ({"heads": 1}, "heads of 32 / 1 = 32 dimensions, the teacher's have 16; give student.hidden=16 or less"),
    ],
    ids=str,
)
def test_sizes_that_the_teacher_cannot_give_are_refused(sizes: dict[str, int], said: str):
    with pytest.raises(UsageError) as refused:
        student(encoder_classifier(), **sizes)
    assert said in str(refused.value)


def test_an_encoder_whose_sizes_are_unknown_is_refused():
    with pytest.raises(UsageError, match=r"student\.hidden: 16: no sizes known for 'modernbert'; for bert, "):
        student(encoder_classifier("modernbert"), hidden=16)
