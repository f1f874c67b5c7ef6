from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.compression import DistillStep, PruneSpec
from configs.schema.engine import EngineSpec
from configs.strict_yaml import parse_yaml


def prune(**fields: Any) -> PruneSpec:
    return PruneSpec.model_validate({"step": "prune", **fields})


@pytest.mark.parametrize(
    ("written", "kept"), [("'2:4'", (2, 4)), ("2:4", (2, 4)), ("1:16", (1, 16)), ("7:59", (7, 59))]
)
def test_a_pattern_may_be_written_with_and_without_quotes(written: str, kept: tuple[int, int]):
    """YAML takes the second one for a time of the day, 124."""
    spec = prune(pattern=parse_yaml(written, "test"))
    assert (spec.kept, spec.sparsity) == (kept, None)
    assert PruneSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": "2:4", "sparsity": 0.3}, "sparsity=0.3: pattern='2:4' says how many are kept; use sparsity=null"),
        ({"pattern": "2:4", "scope": "layer"}, "scope='layer': pattern='2:4' has a scope of its own; leave it out"),
        ({"sparsity": None}, "sparsity, pattern: neither is given; give one of them"),
        ({"pattern": "4:4"}, "'4:4': is no N:M with 0 < N < M, such as 2:4"),
        ({"pattern": "0:4"}, "'0:4': is no N:M with 0 < N < M"),
        ({"pattern": "two of four"}, "'two of four': is no N:M"),
    ],
    ids=str,
)
def test_a_prune_step_that_would_ignore_something_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as refused:
        prune(**fields)
    assert said in str(refused.value)


def test_without_a_pattern_the_share_has_its_default():
    assert (prune().sparsity, prune().kept) == (0.3, None)


def distill(**fields: Any) -> DistillStep:
    return DistillStep.model_validate({"step": "distill", **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sparsity": 0.5, "keep_zeros": False}, "keep_zeros=false: sparsity=0.5 is made of zeros that stay"),
        ({"rising": 0.3}, "rising=0.3: no sparsity rises; give sparsity, or leave it out"),
    ],
    ids=str,
)
def test_a_distill_step_that_would_ignore_something_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as refused:
        distill(**fields)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("engine", "layout"),
    [
        ({"workers": 2, "pipeline_stages": 2}, "engine.pipeline_stages=2"),
        ({"workers": 2, "tensor_parallel": 2}, "engine.tensor_parallel=2"),
        ({"workers": 2, "zero_stage": 3}, "engine.zero_stage=3"),
        ({"zero_stage": 3, "offload": "all"}, "engine.zero_stage=3"),
    ],
    ids=str,
)
def test_where_workers_hold_parts_of_the_weights_only_plain_training_goes_on(engine: dict[str, Any], layout: str):
    spec = EngineSpec.model_validate(engine)
    assert f"keep_zeros=true: with {layout} a worker holds parts" in str(distill().refused_by(spec))
    assert "quantize_aware=true: " in str(distill(keep_zeros=False, quantize_aware=True).refused_by(spec))
    assert distill(keep_zeros=False).refused_by(spec) is None


@pytest.mark.parametrize("engine", [{}, {"workers": 2, "zero_stage": 2}, {"zero_stage": 3}], ids=str)
def test_whole_weights_are_masked_and_rounded(engine: dict[str, Any]):
    assert distill(sparsity=0.5, quantize_aware=True).refused_by(EngineSpec.model_validate(engine)) is None
