"""Narrower decoders: fused and plain matrices, gated units, heads that share keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import decoder as decoders
from jobs.models.decoder import Decoder
from jobs.models.layers import key_heads_for, sizes_of
from jobs.models.narrow import kept_heads, smaller
from jobs.models.plain import plain, stored
from jobs.models.student import check_student, decoder_student
from tests.tiny.folders import decoder_folder
from tests.tiny.models import decoder, packed

KINDS = ("gpt2", "llama", "qwen2", "qwen3", "mistral")
WIDE = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # in a width of 32


def family(kind: str, folder: Path, **entries: Any) -> Decoder:
    """Three layers 32 wide; two heads of 16, or as `entries` say."""
    model = decoders.from_pretrained(str(decoder_folder(folder, kind, **entries)), 32)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def student(teacher: Decoder, layers: int = 3, **sizes: int) -> Decoder:
    spec = StudentSpec(layers=layers, **sizes)  # pyright: ignore[reportArgumentType]
    check_student(teacher.lm.config, spec)
    return decoder_student(teacher, spec).eval()


def test_gpt2s_weights_are_the_same_after_they_were_apart():
    weights = decoder("gpt2").lm.state_dict()
    apart = plain("gpt2", weights)
    assert apart["transformer.h.0.attn.key.weight"].shape == (32, 32)
    assert torch.equal(apart["transformer.h.0.attn.key.bias"], weights["transformer.h.0.attn.c_attn.bias"][32:64])
    torch.testing.assert_close(stored("gpt2", apart), dict(weights), rtol=0, atol=0)
    assert plain("llama", weights) is weights and stored("llama", weights) is weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_as_wide_as_its_teacher_has_its_very_weights(kind: str, tmp_path: Path):
    teacher = family(kind, tmp_path)
    units = sizes_of(teacher.lm.config)[0].feed_forward
    same = student(teacher, hidden=32, heads=2, feed_forward=units)
    torch.testing.assert_close(same.state_dict(), teacher.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_write_nothing_are_left_out_without_a_trace(kind: str, tmp_path: Path):
    teacher, given = family(kind, tmp_path), packed([[9, 3], [7]])
    units = sizes_of(teacher.lm.config)[0].feed_forward
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if name.endswith(("mlp.down_proj.weight", "mlp.c_proj.weight")):
                written = weight if kind != "gpt2" else weight.T
                written[:, torch.randperm(units)[:24]] = 0
    made = student(teacher, feed_forward=units - 24)
    with torch.inference_mode():
        torch.testing.assert_close(made(**given), teacher(**given))


@pytest.mark.parametrize(("heads", "shared"), [(2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_heads_that_write_nothing_are_left_out_without_a_trace(kind: str, heads: int, shared: int, tmp_path: Path):
    """Four heads of queries share two of keys and values: the second group writes nothing, or all but one head do."""
    entries = WIDE if heads == 2 else {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    teacher, given = family(kind, tmp_path, **entries), packed([[9, 3], [7]])
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            if name.endswith("o_proj.weight"):
                weight[:, : heads * 16] = 0
    made = student(teacher, heads=heads)
    assert (made.lm.config.num_attention_heads, made.lm.config.num_key_value_heads) == (heads, shared)
    assert made.lm.config.head_dim == 16
    with torch.inference_mode():
        torch.testing.assert_close(made(**given), teacher(**given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrower_student_has_its_sizes_and_is_loaded_as_it_was_saved(kind: str, tmp_path: Path):
    made = student(family(kind, tmp_path / "model"), layers=2, hidden=16, heads=1, feed_forward=40)
    assert sizes_of(made.lm.config) == [(1, 16, 40)] * 2 and made.lm.config.hidden_size == 16
    (tmp_path / "saved").mkdir()
    decoders.save(made, tmp_path / "saved")
    given = packed([[9, 3], [7]])
    with torch.inference_mode():
        torch.testing.assert_close(decoders.load(tmp_path / "saved")(**given), made(**given))


def test_whole_groups_leave_or_as_many_heads_of_each():
    strength = torch.tensor([1.0, 5, 2, 2, 9, 0, 3, 4])  # four groups of two: 6, 4, 9, 7
    assert [each.tolist() for each in kept_heads(strength, 4, 4, 2)] == [[4, 5, 6, 7], [2, 3]]
    assert [each.tolist() for each in kept_heads(strength, 4, 4, 4)] == [[1, 2, 4, 7], [0, 1, 2, 3]]
    assert [each.tolist() for each in kept_heads(strength, 3, 8, 3)] == [[1, 4, 7], [1, 4, 7]]


def test_heads_that_cannot_share_are_refused(tmp_path: Path):
    shape = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    config = family("llama", tmp_path, **shape).lm.config
    assert [key_heads_for(config, heads, "f") for heads in (6, 4, 3, 2)] == [2, 2, 1, 2]
    with pytest.raises(
        UsageError, match=r"^student\.heads: 5: 6 heads share 2 of keys and values, 3 each; give one of"
    ):
        smaller(config, {"heads": 5})


@pytest.mark.parametrize(
    ("kind", "sizes", "said"),
    [
        ("llama", {"hidden": 64}, "student.hidden: 64: the teacher has 32 to choose from"),
        ("llama", {"heads": 4}, "student.heads: 4: the teacher has 2 to choose from"),
        ("gpt2", {"feed_forward": 129}, "student.feed_forward: 129: the teacher has 128 to choose from"),
        (
            "gpt2",
            {"heads": 1},
            "heads of 32 / 1 = 32 dimensions, the teacher's have 16; give student.hidden=16",
        ),
        ("llama", {"hidden": 17}, "student.hidden: 17: 2 heads cannot share it; give a multiple, or student.heads"),
        ("gemma", {"hidden": 16}, "student.hidden: 16: no sizes known for 'gemma'; for bert, "),
    ],
    ids=str,
)
def test_sizes_that_the_teacher_cannot_give_are_refused(kind: str, sizes: dict[str, int], said: str, tmp_path: Path):
    with pytest.raises(UsageError) as refused:
        student(family(kind, tmp_path), **sizes)
    assert said in str(refused.value)
