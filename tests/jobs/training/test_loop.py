"""What the train loop learns, and which epoch it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.session import JobError
from jobs.data.prepared import TOKENIZER
from jobs.models import decoder, encoder
from jobs.models.loading import load_tokenizer
from jobs.models.reference import read_tokenizer
from jobs.models.sparsity import multiplied, sparsity_facts
from jobs.training import loop
from serving.bundle import read_bundle
from tests.faults.full_disk import files_of_at_most
from tests.faults.marks import fault
from tests.jobs.training.loops import Facts, Shop, folder_of, head


@pytest.mark.parametrize(("name", "most"), [("decoder", 0.9), ("decoder student", 0.99)])  # of a teacher of noise
def test_a_decoder_learns(one: dict[str, Facts], name: str, most: float):
    first, *_, last = one[name]["curve"]
    assert last < most * first


@pytest.mark.parametrize("name", ["decoder adapted", "decoder student adapted", "encoder adapted"])
def test_adapters_learn_and_are_merged_into_the_bundle(shop: Shop, one: dict[str, Facts], name: str):
    first, *rest = one[name]["curve"]
    assert min(rest) < first  # though they stand beside weights that nobody trained
    role = "student" if "student" in name else "teacher"
    folder, of = shop.folder / folder_of(name) / role, "decoder" if name.startswith("decoder") else "encoder"
    family: Any = decoder if of == "decoder" else encoder
    given = shop.folder / ("decoder-base" if of == "decoder" else "encoder-given")
    made, before = family.load(folder).state_dict(), family.load(given).state_dict()
    assert not any("lora_" in name or "base_layer" in name for name in made)
    moved = {name for name, weight in made.items() if role == "teacher" and not torch.equal(weight, before[name])}
    assert not any("norm" in name.lower() or "embed" in name for name in moved)
    assert read_bundle(folder).provenance["adapter"] == {"rank": 4, "alpha": 16.0, "dropout": 0.0, "modules": "all"}


def test_a_student_that_writes_learns_otherwise_and_says_what_it_took(one: dict[str, Facts]):
    seen, curve = one["decoder student writes"]["best"], one["decoder student writes"]["curve"]
    assert 0 < seen["on_policy_share"] < 0.3 and seen["on_policy_seconds"] > 0
    assert curve != one["decoder student"]["curve"]  # of another loss, so neither is lower
    assert "on_policy_share" not in one["decoder student"]["best"]


@pytest.mark.parametrize("name", ["conv student", "foreign student"])
def test_a_student_unlike_its_teacher_learns(one: dict[str, Facts], name: str):
    first, *_, last = one[name]["curve"]
    assert last < 0.99 * first  # of a teacher of noise


def test_a_student_with_tokens_of_its_own_carries_its_tokenizer(one: dict[str, Facts], shop: Shop):
    assert one["foreign student"]["best"]["best_epoch"] > 0
    student = shop.folder / folder_of("foreign student") / "student"
    tokenizer = read_tokenizer(student / read_bundle(student).tokenizer)
    assert tokenizer.to_str() == load_tokenizer(str(shop.foreign)).to_str()
    assert tokenizer.get_vocab_size() < read_tokenizer(shop.prepared.folder / TOKENIZER).get_vocab_size()


def test_training_learns(one: dict[str, Facts]):
    first, *_, last = one["encoder"]["curve"]
    assert last < 0.8 * first
    assert one["encoder"]["best"]["validation_accuracy"] > 0.35  # of five classes, equally many rows


def test_a_student_of_what_its_teacher_holds_inside_is_kept_without_its_projections(shop: Shop, one: dict[str, Facts]):
    """The first epoch has relations alone, whose loss is another; the next two go down."""
    _, second, third = one["student inside"]["curve"]
    assert third < second
    folder = Path(shop.recipe("student inside", []).output or "", "student")
    assert [head(encoder.load(folder))] == one["student inside"]["heads"][
        one["student inside"]["best"]["best_epoch"] - 1
    ]


@pytest.mark.parametrize(
    ("name", "share"),
    [("pruned student", 0.5), ("pruned student, rising", 0.8), ("pruned student, rising, bf16 weights", 0.8)],
)
def test_a_student_goes_on_with_its_zeros(shop: Shop, one: dict[str, Facts], name: str, share: float):
    before, after = (encoder.load(folder) for folder in (shop.folder / "pruned", shop.student(name)))
    assert sparsity_facts(after)["sparsity"] == pytest.approx(share, abs=1e-3)
    for path, layer in multiplied(after).items():
        assert not layer.weight[before.get_submodule(path).weight == 0].any()
    assert one[name]["curve"][-1] < one[name]["curve"][0]


def test_a_student_that_forgets_its_zeros_has_none(shop: Shop, one: dict[str, Facts]):
    assert sparsity_facts(encoder.load(shop.student("pruned student, forgotten")))["sparsity"] < 0.01


def test_of_a_rising_sparsity_only_epochs_at_its_target_are_kept(one: dict[str, Facts]):
    """0.6 of the steps end in the second of three, and the first was better."""
    best = one["pruned student, rising"]["best"]
    assert (best["best_epoch"], best["validation_accuracy"]) == (2, 0.5)


def test_a_student_that_learns_rounded_is_judged_rounded_and_kept_whole(shop: Shop, one: dict[str, Facts]):
    assert one["pruned student, rounded"]["curve"] != one["pruned student"]["curve"]
    assert one["pruned student, rounded"]["curve"] == pytest.approx(one["pruned student"]["curve"], rel=0.05)
    weight = encoder.load(shop.student("pruned student, rounded")).head.weight
    assert len(weight[0].unique()) == len(weight[0])


def test_the_bundle_holds_the_best_epoch_not_the_last(shop: Shop, one: dict[str, Facts]):
    seen = one["encoder, worse at last"]
    assert (seen["best"]["best_epoch"], seen["best"]["validation_accuracy"]) == (2, 0.9)
    assert read_bundle(shop.teacher("encoder, worse at last")).metrics == seen["best"]
    assert [head(encoder.load(shop.teacher("encoder, worse at last")))] == seen["heads"][1]


@fault("disk full")
def test_a_best_epoch_that_finds_no_room_leaves_the_one_before(tmp_path: Path):
    loop._keep(torch.nn.Linear(2, 2), tmp_path, 1)
    with files_of_at_most(1000), pytest.raises(JobError, match=r"best-0002\.safetensors: not written: File too large"):
        loop._keep(torch.nn.Linear(100, 100), tmp_path, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["best-0001.safetensors"]
    loop._keep(torch.nn.Linear(100, 100), tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_begins_again_keeps_its_own_best_and_not_that_of_the_run_before(tmp_path: Path):
    for epoch in (5, 6, 7, 1, 2, 3, 4):
        loop._keep(torch.nn.Linear(2, 2), tmp_path, epoch)
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"best-000{epoch}.safetensors" for epoch in (2, 3, 4)]
