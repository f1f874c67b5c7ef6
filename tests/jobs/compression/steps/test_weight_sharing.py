from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from cluster.session import JobError
from configs.schema.compression import ClusterSpec
from configs.schema.distillation import DistillationSpec
from configs.schema.recipe import Recipe
from jobs.compression.steps.weight_sharing import Codes, _loss, centroids, cluster, train
from jobs.models import encoder
from jobs.models.encoder import EncoderClassifier
from jobs.training.loss import distill_loss
from tests.tiny.models import CLASSES, batch, encoder_classifier
from tests.tiny.texts import workplace, write_logits
from tests.tiny.workplace import Alone


def clustered(model: EncoderClassifier, bits: int = 4) -> tuple[EncoderClassifier, dict[str, Any]]:
    place = Alone()
    return cluster(model, ClusterSpec(step="cluster", bits=bits, steps=0), place), place.facts["cluster"]


def matrices(model: nn.Module, bits: int = 4) -> dict[str, Tensor]:
    """Those that are large enough for so many values."""
    return {
        name: each.detach()
        for name, each in model.named_parameters()
        if each.ndim > 1 and each.numel() >= 8 * 2**bits and not name.startswith("head")
    }


@pytest.mark.parametrize("count", [2, 7, 16])
def test_centroids_are_a_fixed_point_as_good_as_those_of_scikit_learn(count: int):
    values_N = torch.randn(2000, generator=torch.Generator().manual_seed(count))
    found_K = centroids(values_N, count)
    assert torch.equal(found_K, found_K.sort().values) and len(found_K) == count
    nearest_N = (values_N[:, None] - found_K).abs().argmin(1)
    means_K = torch.stack([values_N[nearest_N == number].mean() for number in range(count)])
    torch.testing.assert_close(found_K, means_K, atol=1e-5, rtol=0)
    reference = KMeans(count, n_init=3, random_state=0)  # pyright: ignore[reportArgumentType] - its default is a word
    reference.fit(values_N[:, None].numpy())
    inertia: Any = reference.inertia_
    assert (values_N - found_K[nearest_N]).square().sum().item() <= 1.05 * inertia


def test_numbers_that_are_few_already_are_their_own_centroids():
    assert centroids(torch.tensor([3.0, -1, 3, 0.5, -1]), 4).tolist() == [-1, 0.5, 3]


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_a_matrix_has_at_most_so_many_weights_each_the_nearest(bits: int):
    model = encoder_classifier()
    smaller, facts = clustered(model, bits)
    before, after = matrices(model, bits), matrices(smaller, bits)
    assert facts["matrices"] == len(after) == 14 + (bits == 2)  # tokens, positions and 6 of each layer; types
    for name, weight in after.items():
        values_K = weight.unique()
        assert len(values_K) <= 2**bits
        nearest = (before[name][..., None] - values_K).abs().amin(-1)
        torch.testing.assert_close((before[name] - weight).abs(), nearest, atol=1e-6, rtol=0)
    lost = sum(float((before[name] - weight).square().sum()) for name, weight in after.items())
    total = sum(float(weight.square().sum()) for weight in before.values())
    assert facts["error_of_kmeans"] == pytest.approx(lost / total)


def test_all_other_weights_and_the_given_model_stay_as_they_were():
    model = encoder_classifier()
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    smaller, _ = clustered(model)
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    others = smaller.state_dict().keys() - matrices(smaller).keys()
    assert "head.weight" in others
    assert all(torch.equal(smaller.state_dict()[name], weights[name]) for name in others)


def test_clustering_twice_changes_nothing():
    once, _ = clustered(encoder_classifier())
    twice, facts = clustered(once)
    assert facts["error_of_kmeans"] == 0
    assert all(torch.equal(each, once.state_dict()[name]) for name, each in twice.state_dict().items())


def test_weights_that_were_pruned_stay_zero():
    weight = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < 0.5] = 0
    codes = Codes.of(weight, 3)
    assert torch.equal(codes.weight() == 0, weight == 0)
    assert len(codes.values_K) == 8


def test_the_gradient_of_a_value_is_the_sum_over_its_weights():
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    codes, given = Codes.of(weight, 2), torch.rand(30, 20)
    codes.values_K.requires_grad_()
    (codes.weight() * given).sum().backward()
    expected = torch.stack([given[codes.index == value].sum() for value in range(4)])
    torch.testing.assert_close(codes.values_K.grad, expected)


def test_values_learn_what_the_teacher_says_and_a_zero_stays():
    teacher, model = encoder_classifier(), encoder_classifier(seed=0)
    given = batch(16, 8) | {"token_type_ids": torch.zeros(16, 8, dtype=torch.int64)}
    with torch.no_grad():
        model.encoder.encoder.layer[0].output.dense.weight[:, :16] = 0  # pyright: ignore
        logits_BC = teacher(**given)
        taught = {"teacher_logits": logits_BC, "label": logits_BC.argmax(1)}
    weights = {name: weight.clone() for name, weight in matrices(model).items()}
    codes = {name: Codes.of(weight, 2) for name, weight in weights.items()}
    indices = {name: each.index.clone() for name, each in codes.items()}
    spec, distillation = ClusterSpec(step="cluster", bits=2, steps=60, learning_rate=2e-3), DistillationSpec()

    def of_logits(logits_BC: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return distill_loss(logits_BC, batch["teacher_logits"], batch["label"], distillation)

    def loss() -> float:
        with torch.no_grad():
            logits_BC = torch.func.functional_call(
                model, {name: each.weight() for name, each in codes.items()}, (), given
            )
            return float(of_logits(logits_BC, taught).mean())

    before = loss()
    train(model, codes, spec, of_logits, itertools.repeat(given | taught))
    assert loss() < 0.95 * before  # of which most is what the teacher is unsure of
    assert all(torch.equal(each.index, indices[name]) for name, each in codes.items())
    assert all(torch.equal(weight, weights[name]) for name, weight in matrices(model).items())
    pruned = codes["encoder.encoder.layer.0.output.dense.weight"]
    assert not pruned.weight()[:, :16].any()


def test_codebooks_are_trained_on_the_rows_by_the_stored_logits(tmp_path: Path):
    place, spec = workplace(tmp_path), ClusterSpec(step="cluster", bits=2, steps=2)
    model = encoder.load(place.student)
    with pytest.raises(JobError, match=r"run jobs\.teach, or set steps=0"):
        cluster(model, spec, place)
    rows = place.prepared.manifest["rows"]["train"]
    write_logits(tmp_path / "teacher_outputs", np.random.default_rng(0).normal(size=(rows, CLASSES)))
    trained = cluster(model, spec, place)
    assert place.facts["cluster"]["error"] != place.facts["cluster"]["error_of_kmeans"]
    assert all(len(weight.unique()) <= 4 for weight in matrices(trained).values())
    assert [name for name, _ in trained.named_parameters()] == [name for name, _ in model.named_parameters()]


def loss_of(grades: list[float] | int, **distillation: Any) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    """What the codebooks of a student of five classes are trained by; its rows are of the first three, two to one."""
    model = EncoderClassifier(encoder_classifier().encoder, "mean", grades)
    examples = SimpleNamespace(labels=np.array([0, 0, 1, 1, 2]))
    place = Alone(
        recipe=Recipe.model_validate({"name": "tiny", "distillation": distillation}),
        prepared=SimpleNamespace(labels=list("abcde"), examples=lambda split: examples),
    )
    return _loss(model, ClusterSpec(step="cluster"), place)


def said() -> tuple[Tensor, dict[str, Tensor]]:
    """(logits, batch)."""
    logits_2BC = torch.randn(2, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    return logits_2BC[0].requires_grad_(), {"teacher_logits": logits_2BC[1], "label": torch.tensor([0, 1, 4, 2])}


def test_codebooks_of_grades_are_trained_by_the_squared_error():
    logits_BC, batch = said()
    loss_B = loss_of([1.0, 2, 3, 4, 5], weights={"kl": 0, "cross_entropy": 1})(logits_BC, batch)
    torch.testing.assert_close(loss_B, -logits_BC[range(4), batch["label"]])


def test_codebooks_are_trained_by_the_objectives_of_the_last_epoch():
    logits_BC, batch = said()
    stages = [{"epochs": 1, "weights": {"cross_entropy": 1}}]
    loss_B = loss_of(CLASSES, epochs=4, temperature=8, final_temperature=2, stages=stages)(logits_BC, batch)
    expected = DistillationSpec(temperature=2)
    torch.testing.assert_close(loss_B, distill_loss(logits_BC, batch["teacher_logits"], batch["label"], expected))


def test_codebooks_are_trained_with_the_weights_of_the_classes():
    logits_BC, batch = said()
    loss_B = loss_of(CLASSES, class_weights="balanced", weights={"kl": 0, "cross_entropy": 1})(logits_BC, batch)
    weight_B = 5 / 3 / torch.tensor([2.0, 2, 1, 1])  # of a class without rows as of one with one
    torch.testing.assert_close(loss_B, weight_B * F.cross_entropy(logits_BC, batch["label"], reduction="none"))


def test_where_no_logits_are_compared_codebooks_are_trained_by_the_kl(caplog: pytest.LogCaptureFixture):
    logits_BC, batch = said()
    loss_B = loss_of(CLASSES, weights={"kl": 0, "cross_entropy": 0, "relations": 1})(logits_BC, batch)
    assert "step cluster: distillation.weights compare no logits" in caplog.text
    alone = DistillationSpec.model_validate({"weights": {"kl": 1, "cross_entropy": 0}})
    torch.testing.assert_close(loss_B, distill_loss(logits_BC, batch["teacher_logits"], batch["label"], alone))
