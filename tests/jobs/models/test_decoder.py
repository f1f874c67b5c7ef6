from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from configs.loader import UsageError
from configs.schema.models import NEW_KINDS, NewModelSpec, StudentSpec, TeacherSpec
from jobs.models import decoder as decoders
from jobs.models.student import decoder_student
from tests.tiny.models import VOCABULARY, decoder, packed


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_text_in_a_packed_row_is_scored_as_if_it_stood_alone(kind: str):
    model, together = decoder(kind), packed([[5, 7]])
    with torch.inference_mode():
        both = model(**together)[0]
        for start, end in ((0, 5), (5, 12)):
            alone = model(**{name: tensor[:, start:end] for name, tensor in together.items()})[0]
            torch.testing.assert_close(both[start:end], alone)


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_saved_decoder_is_a_transformers_folder_and_answers_as_before(kind: str, tmp_path: Path):
    model, given = decoder(kind), packed([[6]])
    decoders.save(model, tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(decoders.load(tmp_path)(**given), model(**given))
    assert decoders.end_of(str(tmp_path)) == 3
    again = decoders.pretrained(TeacherSpec(model=str(tmp_path)), VOCABULARY, 30, 3)
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_completions_are_greedy_whatever_a_pretrained_model_says_of_generation(tmp_path: Path):
    model = decoder("llama")
    expected = decoders.complete(model, [[5, 6, 7, 5]], 30, 3)
    model.lm.save_pretrained(tmp_path)
    GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1).save_pretrained(tmp_path)
    for again in (decoders.load(tmp_path), decoders.pretrained(TeacherSpec(model=str(tmp_path)), VOCABULARY, 30, 3)):
        assert decoders.complete(again, [[5, 6, 7, 5]], 30, 3) == expected


def test_a_pretrained_decoder_that_is_too_short_is_refused(tmp_path: Path):
    decoders.save(decoder("gpt2"), tmp_path)
    with pytest.raises(UsageError, match=r"data.max_length: 41: .* takes 40 tokens at most"):
        decoders.pretrained(TeacherSpec(model=str(tmp_path)), VOCABULARY, 41, 3)


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_new_decoder_has_the_sizes_of_the_recipe(kind: str):
    spec = TeacherSpec(model=f"new:{kind}", new=NewModelSpec(layers=3, hidden=24, heads=2, tied=False))
    model = decoders.pretrained(spec, 77, 50, 0)
    config = model.lm.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 24, 2)
    assert (config.vocab_size, config.max_position_embeddings, config.eos_token_id) == (77, 50, 0)
    assert model.vocabulary == 77
    assert model.lm.get_output_embeddings().weight is not model.lm.get_input_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_student_of_all_layers_answers_as_its_teacher(kind: str):
    teacher, given = decoder(kind), packed([[6]])
    with torch.inference_mode():
        torch.testing.assert_close(decoder_student(teacher, StudentSpec(layers=2)).eval()(**given), teacher(**given))


def test_a_student_has_the_chosen_layers():
    teacher = decoder("llama", layers=4)
    student = decoder_student(teacher, StudentSpec(layers=[0, 3]))
    assert student.lm.config.num_hidden_layers == 2
    for new, old in ((0, 0), (1, 3)):
        mine, theirs = (
            each.lm.get_submodule(f"model.layers.{index}") for each, index in ((student, new), (teacher, old))
        )
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict())
