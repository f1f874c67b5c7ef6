from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.distillation import DistillationSpec


def spec(**fields: Any) -> DistillationSpec:
    return DistillationSpec.model_validate(fields)


def test_without_a_schedule_every_epoch_is_the_same():
    given = spec(epochs=4)
    assert all(given.during(epoch) == given for epoch in range(4))


def test_the_temperature_goes_in_equal_steps_to_the_last_epochs():
    given = spec(epochs=4, temperature=7, final_temperature=1)
    assert [given.during(epoch).temperature for epoch in range(4)] == [7, 5, 3, 1]


def test_a_single_epoch_has_the_first_temperature():
    assert spec(epochs=1, temperature=7, final_temperature=1).during(0).temperature == 7


def test_stages_come_one_after_the_other_and_then_the_weights():
    given = spec(
        epochs=5,
        weights={"kl": 0.7},
        stages=[{"epochs": 2, "weights": {"relations": 1}}, {"epochs": 1, "weights": {"hidden": 2}}],
    )
    seen = [given.during(epoch).weights for epoch in range(5)]
    assert [weights.relations for weights in seen] == [1, 1, 0, 0, 0]
    assert [weights.hidden for weights in seen] == [0, 0, 2, 0, 0]
    assert [weights.kl for weights in seen] == [0, 0, 0, 0.7, 0.7]
    assert given.hidden_objectives == {"relations": 1, "hidden": 2}


@pytest.mark.parametrize("field", ["temperature", "final_temperature", "teacher_share", "learning_rate"])
def test_what_has_to_be_above_0_may_not_be_0(field: str):
    assert spec(**{field: 1e-6})
    for value in (0, -0.5):
        with pytest.raises(ValidationError, match=rf"{field}\n +Input should be greater than 0"):
            spec(**{field: value})


def test_a_share_in_a_mixture_leaves_something_to_both():
    assert spec(teacher_share=1 - 1e-6)
    with pytest.raises(ValidationError, match="Input should be less than 1"):
        spec(teacher_share=1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 3, "stages": [{"epochs": 3, "weights": {"relations": 1}}]}, "3 epochs of 3: none is left"),
        ({"stages": [{"epochs": 1, "weights": {}}]}, "are all 0: nothing is learned"),
        ({"stages": [{"epochs": 0, "weights": {"relations": 1}}]}, "greater than or equal to 1"),
    ],
)
def test_a_schedule_that_teaches_nothing_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        spec(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": {"kl": 0, "cross_entropy": 1}},
        {"epochs": 3, "stages": [{"epochs": 1, "weights": {"cross_entropy": 1}}]},
    ],
    ids=str,
)
def test_own_texts_that_nothing_is_compared_on_are_refused(fields: dict[str, Any]):
    with pytest.raises(ValidationError, match=r"on_policy=0.5: a student's own texts teach by the teacher's"):
        spec(on_policy=0.5, **fields)
    assert spec(on_policy=0.5, weights={"kl": 0, "jensen_shannon": 1}).on_policy == 0.5
