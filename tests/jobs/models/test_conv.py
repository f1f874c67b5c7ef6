from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from configs.loader import UsageError
from configs.schema.models import StudentSpec
from jobs.models import encoder
from jobs.models.conv import ConvBlock, TokenNorm, principal
from jobs.models.encoder import EncoderClassifier
from jobs.models.student import encoder_student
from tests.group import in_group
from tests.tiny.models import CLASSES, VOCABULARY, batch, encoder_classifier


def student(width: int = 16, layers: int = 3, kernel: int = 3, seed: int = 0) -> EncoderClassifier:
    """In eval mode, with running statistics of its own."""
    spec = StudentSpec(kind="conv", hidden=width, layers=layers, kernel=kernel)
    torch.manual_seed(seed)
    made = encoder_student(encoder_classifier(), spec)
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
            if name.endswith("conv.weight"):
                tensor.normal_()
    return made.eval()


def test_padding_changes_no_answer():
    model, given = student(), batch(6, 12)
    with torch.inference_mode():
        whole_BC = model(**given)
        for row, mask_L in enumerate(given["attention_mask"]):
            length = int(mask_L.sum())
            alone = {name: tensor[[row], :length] for name, tensor in given.items()}
            torch.testing.assert_close(model(**alone)[0], whole_BC[row], atol=1e-5, rtol=2e-5)
        other = torch.where(given["attention_mask"].bool(), given["input_ids"], 7)
        assert torch.equal(model(other, given["attention_mask"]), whole_BC)


def test_a_block_is_a_convolution_of_each_text_with_statistics_over_the_real_tokens():
    torch.manual_seed(0)
    block, lengths = ConvBlock(4, 3), [5, 2, 3]
    hidden_BHL, mask_BL = torch.randn(3, 4, 5), (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    alone = [
        F.conv1d(hidden_BHL[row, :, :length], block.conv.weight, padding=1).T for row, length in enumerate(lengths)
    ]
    expected_NH = torch.cat(alone)
    mean_H, var_H = expected_NH.mean(0), expected_NH.var(0, unbiased=False)
    seen_BLH = block(hidden_BHL, mask_BL).transpose(1, 2)
    real_BL = mask_BL.bool()
    normed_NH = (expected_NH - mean_H) / (var_H + block.norm.eps).sqrt()
    torch.testing.assert_close(seen_BLH[real_BL], hidden_BHL.transpose(1, 2)[real_BL] + normed_NH.relu())
    torch.testing.assert_close(block.norm.running_mean, 0.1 * mean_H)  # its momentum, and a first mean of 0


def test_a_batch_of_one_token_is_normed_by_the_running_statistics():
    block = ConvBlock(4, 3)
    hidden_BHL, mask_BL = torch.randn(1, 4, 3), torch.tensor([[1, 0, 0]])
    trained_BH = block(hidden_BHL, mask_BL)[..., 0]
    torch.testing.assert_close(trained_BH, block.eval()(hidden_BHL, mask_BL)[..., 0])


def test_rows_that_fill_a_batch_up_are_no_part_of_its_statistics():
    given, filled = batch(6, 12), batch(8, 12)
    for name, tensor in given.items():
        filled[name][:6] = tensor
    weight_B = torch.tensor([1.0] * 6 + [0.0] * 2)
    alone, beside, counting = (student().train() for _ in range(3))
    torch.testing.assert_close(beside(**filled, weight=weight_B)[:6], alone(**given))
    counting(**filled)
    own, same, other = (model.state_dict()["encoder.layers.2.norm.running_var"] for model in (alone, beside, counting))
    torch.testing.assert_close(same, own)
    assert not torch.allclose(other, own), "control"


def test_its_norm_is_that_of_torch_over_the_tokens_of_a_batch():
    norm, reference = TokenNorm(4), torch.nn.BatchNorm1d(4)
    with torch.no_grad():
        for each in (norm, reference):
            each.weight.copy_(torch.arange(1.0, 5))
            each.bias.copy_(torch.arange(4.0))
    values_BHL = torch.randn(3, 4, 5).requires_grad_()
    counted_BL = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    own_NH = norm.of_a_batch(values_BHL, counted_BL).transpose(1, 2)[counted_BL]
    expected_NH = reference(values_BHL.transpose(1, 2)[counted_BL])
    torch.testing.assert_close(own_NH, expected_NH)
    slopes = [torch.autograd.grad((each**3).sum(), values_BHL)[0] for each in (own_NH, expected_NH)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)


def normed_by(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """One worker's part of four rows: the norm's statistics, and the slope of the sum of cubes for two of its rows."""
    group = torch.distributed
    rank, workers = (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)
    chance = torch.Generator().manual_seed(0)
    values_BHL = torch.randn(4, 3, 5, generator=chance)
    counted_BL = torch.arange(5) < torch.tensor([5, 2, 3, 4])[:, None]
    mine = slice(rank * 4 // workers, (rank + 1) * 4 // workers)
    norm, values_BHL = TokenNorm(3), values_BHL[mine].requires_grad_()
    normed_NH = norm.of_a_batch(values_BHL, counted_BL[mine]).transpose(1, 2)[counted_BL[mine]]
    (slope_BHL,) = torch.autograd.grad((normed_NH**3).sum(), values_BHL)
    statistics = {"mean": norm.running_mean, "var": norm.running_var}
    return {name: each.clone() for name, each in statistics.items() if each is not None} | {"slope": slope_BHL[:2]}


@pytest.mark.slow
def test_two_workers_have_the_statistics_and_slopes_of_one_that_has_all_rows(tmp_path: Path):
    of_two = in_group(normed_by, {}, 2, tmp_path)
    for name, whole in normed_by({}).items():
        torch.testing.assert_close(of_two[name], whole, rtol=1e-4, atol=1e-5)


def test_every_weight_learns():
    model = student().train()
    F.cross_entropy(model(**batch(6, 12)), torch.arange(6) % CLASSES).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(("width", "layers", "kernel"), [(8, 1, 5), (16, 3, 1)])
def test_parameters_are_as_many_as_the_sizes_say(width: int, layers: int, kernel: int):
    count = sum(each.numel() for each in student(width, layers, kernel).parameters())
    assert count == VOCABULARY * width + layers * (kernel * width**2 + 2 * width) + CLASSES * (width + 1)


def test_it_is_loaded_as_it_was_saved(tmp_path: Path):
    model, given = student(kernel=5), batch(3, 12)
    encoder.save(model, tmp_path)
    again = encoder.load(tmp_path)
    assert again.encoder.config.model_type == "slimcart_conv"
    with torch.inference_mode():
        assert torch.equal(again(**given), model(**given))


def tokens(model: EncoderClassifier) -> torch.Tensor:
    embeddings: Any = model.encoder.get_input_embeddings()
    return embeddings.weight.detach()


def test_its_tokens_stand_to_one_another_as_the_teachers():
    teacher = encoder_classifier()
    made = encoder_student(teacher, StudentSpec(kind="conv"))
    ratio_VV = torch.cdist(tokens(made), tokens(made)) / torch.cdist(tokens(teacher), tokens(teacher))
    others = ~torch.eye(VOCABULARY, dtype=torch.bool)
    torch.testing.assert_close(ratio_VV[others], ratio_VV[0, 1].expand(int(others.sum())), rtol=1e-3, atol=0)


def test_principal_axes_keep_what_a_singular_value_decomposition_keeps():
    torch.manual_seed(0)
    table_VH = torch.randn(50, 8) * torch.arange(1, 9) + 5
    centred_VH = table_VH - table_VH.mean(0)
    values = torch.linalg.svd(centred_VH).S[:3]
    made = principal(table_VH, 3)
    torch.testing.assert_close(made.norm(dim=0) / made.norm(), values / values.norm())
    assert made.square().mean().item() == pytest.approx(1)


def test_more_channels_than_the_teacher_has_dimensions_are_refused():
    with pytest.raises(UsageError, match=r"student\.hidden: 33: the teacher's token embeddings have 32"):
        student(33)


def test_a_convolutional_student_of_a_graded_teacher_is_graded():
    teacher = EncoderClassifier(encoder_classifier().encoder, "cls", [0.0, 1.0, 2.0])
    assert encoder_student(teacher, StudentSpec(kind="conv", hidden=8)).classes == [0.0, 1.0, 2.0]
