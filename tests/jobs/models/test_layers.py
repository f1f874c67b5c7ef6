"""Encoders whose layers have sizes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedConfig

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.models.hidden_states import look_inside, relation_width
from jobs.models.layers import LayerSize, has_own_sizes, layers_of, set_hidden, set_sizes, sizes_of
from jobs.models.stages import encoder_layers
from jobs.models.student import encoder_student
from tests.tiny.models import CLASSES, batch, config, encoder_classifier

KINDS = ["bert", "roberta", "electra", "distilbert"]  # 32 wide, 2 heads of 16, 64 units
UNEVEN = [LayerSize(1, 16, 40), LayerSize(2, 16, 8), LayerSize(1, 16, 64)]


def made(kind: str, sizes: list[LayerSize] = UNEVEN) -> EncoderClassifier:
    torch.manual_seed(0)
    sized = config(kind, len(sizes))
    set_sizes(sized, sizes)
    model = encoder.from_config(sized, "mean", CLASSES, 0.0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def plain(kind: str) -> PreTrainedConfig:
    return encoder_classifier(kind, layers=3).encoder.config


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_says_the_sizes_that_it_was_given(kind: str):
    sized = plain(kind)
    assert sizes_of(sized) == [LayerSize(2, 16, 64)] * 3
    set_sizes(sized, UNEVEN)
    assert sizes_of(sized) == UNEVEN and has_own_sizes(sized)
    set_sizes(sized, UNEVEN[:1] * 2)
    assert sizes_of(sized) == UNEVEN[:1] * 2 and has_own_sizes(sized)  # one head of 16 in a width of 32


def test_sizes_that_transformers_can_say_are_said_as_it_says_them():
    sized = plain("bert")
    before = sized.to_dict()
    set_sizes(sized, UNEVEN)
    set_sizes(sized, [LayerSize(2, 16, 64)] * 3)
    assert not has_own_sizes(sized)
    assert sized.to_dict() == before


def test_who_reads_a_size_that_layers_do_not_share_is_stopped():
    sized = plain("bert")
    set_sizes(sized, UNEVEN)
    with pytest.raises(RuntimeError, match="num_attention_heads"):
        _ = sized.num_attention_heads


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_built_in_their_own_sizes(kind: str):
    model = made(kind)
    shapes = [sorted(tuple(each.shape) for each in layer.parameters()) for layer in layers_of(model.encoder)]
    for (heads, size, units), found in zip(UNEVEN, shapes, strict=True):
        inside = heads * size
        weights = [(inside, 32)] * 3 + [(32, inside), (units, 32), (32, units)]
        biases = [(inside,)] * 3 + [(units,)] + [(32,)] * 6
        assert found == sorted(weights + biases)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_uneven_layers_is_loaded_as_it_was_saved(kind: str, tmp_path: Path):
    model, given = made(kind), batch(3, 12)
    encoder.save(model, tmp_path)
    loaded = encoder.load(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert sizes_of(loaded.encoder.config) == UNEVEN
    with torch.inference_mode():
        assert torch.equal(loaded(**given), model(**given))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_student_takes_layers_of_an_uneven_teacher_as_they_are(kind: str):
    teacher = made(kind)
    student = encoder_student(teacher, StudentSpec(layers=[2, 1])).eval()
    assert sizes_of(student.encoder.config) == [UNEVEN[2], UNEVEN[1]]
    given = batch(3, 12)
    with torch.inference_mode():
        layers = layers_of(teacher.encoder)
        chosen = [layers[2], layers[1]]
        del layers[:]
        layers.extend(chosen)
        torch.testing.assert_close(student(**given), teacher(**given))


@pytest.mark.parametrize("asked", [{"hidden": 16}, {"feed_forward": 8}, {"kind": "new", "layers": 1}], ids=str)
def test_other_sizes_than_those_of_an_uneven_teacher_are_refused(asked: dict[str, object]):
    with pytest.raises(UsageError, match=r"layers have sizes of their own; give student.kind=layers"):
        encoder_student(made("bert"), StudentSpec.model_validate(asked))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_stages_of_an_uneven_model_answer_as_the_model(kind: str):
    model, given = made(kind), batch(3, 12)
    value: object = (*given.values(), torch.zeros_like(given["input_ids"]))
    with torch.inference_mode():
        for stage in encoder_layers(model):
            value = stage(value)  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(value, model(**given))


def test_relations_are_as_wide_as_the_heads_of_their_layer():
    model, given = made("bert"), batch(3, 12)
    assert [relation_width(model, layer) for layer in (1, 2, -1)] == [16, 32, 16]
    seen = look_inside(model, given, [1, -1], 2)
    assert [each.shape[-1] for each in (*seen.hidden, *seen.relations)] == [32, 32, 32, 32, 32]


def test_projected_embeddings_keep_their_width_and_others_follow_the_hidden_one():
    projected, equal, bert = config("electra", 1), config("electra", 1), config("bert", 1)
    equal.embedding_size = 32
    for each in (projected, equal, bert):
        set_hidden(each, 24, "field")
        assert each.hidden_size == 24
    assert (projected.embedding_size, equal.embedding_size, hasattr(bert, "embedding_size")) == (16, 24, False)
    with pytest.raises(UsageError, match=r"field: 16: as wide as the token embeddings"):
        set_hidden(projected, 16, "field")
