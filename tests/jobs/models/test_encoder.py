from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.loader import UsageError
from configs.schema.models import TeacherSpec
from jobs.models import encoder
from tests.tiny.models import CLASSES, batch, encoder_classifier


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_logits_are_the_head_over_the_pooled_token_vectors(kind: str, pooling: str):
    model, given = encoder_classifier(kind, pooling=pooling), batch(4, 9)
    with torch.inference_mode():
        hidden_BLH = model.encoder(**given).last_hidden_state
        lengths = given["attention_mask"].sum(1)
        rows = [
            tokens_LH[:length].mean(0) if pooling == "mean" else tokens_LH[0]
            for tokens_LH, length in zip(hidden_BLH, lengths, strict=True)
        ]
        expected_BC = torch.stack(rows) @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(**given), expected_BC)
    assert expected_BC.shape == (4, CLASSES)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_padding_changes_no_answer(kind: str, pooling: str):
    model, given = encoder_classifier(kind, pooling=pooling), batch(4, 9)
    longer = {name: torch.nn.functional.pad(tensor, (0, 7), value=1) for name, tensor in given.items()}
    longer["attention_mask"][:, 9:] = 0
    with torch.inference_mode():
        torch.testing.assert_close(model(**longer), model(**given))
        for row, length in enumerate(given["attention_mask"].sum(1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in given.items()}
            torch.testing.assert_close(model(**alone)[0], model(**given)[row])


def test_token_types_count_where_the_encoder_knows_them_and_are_ignored_elsewhere():
    given = batch(3, 9)
    types = {"token_type_ids": (torch.arange(9) > 4).long().expand(3, 9)}
    zeros = {"token_type_ids": torch.zeros(3, 9, dtype=torch.int64)}
    with torch.inference_mode():
        for kind, knows in (("bert", True), ("roberta", False), ("distilbert", False)):
            model = encoder_classifier(kind)
            assert model.has_types is knows
            assert torch.equal(model(**given, **zeros), model(**given))
            assert torch.equal(model(**given, **types), model(**given)) is not knows


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_saved_model_loads_bit_for_bit(kind: str, pooling: str, tmp_path: Path):
    model, given = encoder_classifier(kind, layers=3, pooling=pooling), batch(3, 11)
    encoder.save(model, tmp_path)
    loaded = encoder.load(tmp_path)
    assert not loaded.training
    assert loaded.pooling == pooling
    weights, others = model.state_dict(), loaded.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())
    with torch.inference_mode():
        assert torch.equal(loaded(**given), model(**given))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        encoder.save(encoder_classifier(), tmp_path / name)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_pretrained_folder_gets_a_new_head_and_keeps_its_weights(tiny_teacher: Path):
    spec = TeacherSpec(model=str(tiny_teacher))
    model, again = (encoder.pretrained(spec, list("abcdefg")) for _ in range(2))
    assert model.head.out_features == 7
    assert model.dropout.p == spec.dropout
    kept = [name for name, weight in model.state_dict().items() if torch.equal(weight, again.state_dict()[name])]
    assert set(model.state_dict()) - set(kept) == {"head.weight", "head.bias"}


GRADES = [1.0, 2.0, 4.0]


def graded() -> encoder.EncoderClassifier:
    torch.manual_seed(0)
    model = encoder_classifier()
    return encoder.EncoderClassifier(model.encoder, "mean", GRADES).eval()


def test_a_graded_model_answers_the_grade_nearest_to_its_score():
    model = graded()
    head, pooled_BH = model.head, 30 * torch.randn(200, 32)
    score_B = head.score(pooled_BH)[:, 0]
    nearest_B = (score_B[:, None] - torch.tensor(GRADES)).abs().argmin(1)
    assert set(nearest_B.tolist()) == {0, 1, 2}
    assert torch.equal(head(pooled_BH).argmax(1), nearest_B)


def test_a_new_graded_model_starts_in_the_middle_of_its_grades():
    assert graded().head.score.bias.item() == pytest.approx(sum(GRADES) / 3)


def test_a_graded_model_is_read_as_it_was_saved(tmp_path: Path):
    model = graded()
    encoder.save(model, tmp_path)
    again = encoder.load(tmp_path)
    assert again.classes == GRADES
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch(3, 7)), model(**batch(3, 7)))


def test_many_grades_are_told_apart_under_autocast():
    head = encoder.GradeHead(64, [float(grade) for grade in range(366)])
    torch.manual_seed(0)
    pooled_BH = torch.randn(1000, 64)
    with torch.no_grad():
        head.score.weight.mul_(180)
        answers_B = head(pooled_BH).argmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head(pooled_BH).argmax(1), answers_B)
    assert len(answers_B.unique()) > 200


def test_grades_are_the_numbers_of_the_labels(tiny_teacher: Path):
    spec = TeacherSpec(model=str(tiny_teacher), head="grades")
    assert encoder.pretrained(spec, ["1", "2.5", "4"]).classes == [1.0, 2.5, 4.0]
    with pytest.raises(UsageError, match=r"teacher\.head: 'grades' needs labels that are numbers; 'refund' is none"):
        encoder.pretrained(spec, ["1", "refund"])
    with pytest.raises(UsageError, match="'nan' is none"):
        encoder.grades_of(["1", "nan"])
