from typing import Any

import pytest
from pydantic import ValidationError

from tests.configs.schema.recipes import DISTILL, EXPORT, PRUNE, QUANTIZE, recipe, refusal


def test_the_default_exports_and_quantizes():
    assert [step.step for step in recipe().compression] == ["export", "quantize"]


@pytest.mark.parametrize("steps", [[EXPORT], [PRUNE, EXPORT], [EXPORT, QUANTIZE], [PRUNE, EXPORT, QUANTIZE]])
def test_steps_on_their_side_of_export_are_taken_in_order(steps: list[dict[str, Any]]):
    assert [step.step for step in recipe(compression=steps).compression] == [each["step"] for each in steps]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "hold 0 export; exactly one is needed"),
        ([PRUNE], "hold 0 export; exactly one is needed"),
        ([EXPORT, {**EXPORT, "name": "again"}], "hold 2 export; exactly one is needed"),
        ([QUANTIZE, EXPORT], "compression[0]: 'quantize' works after export; move it after that item"),
        ([EXPORT, PRUNE], "compression[1]: 'prune' works before export; move it before that item"),
        ([PRUNE, PRUNE, EXPORT], "'prune' stands for several items; give each a name of its own"),
        ([{**PRUNE, "name": "export"}, EXPORT], "'export' stands for several items"),
        (
            [EXPORT, QUANTIZE, {**QUANTIZE, "name": "again"}],
            "compression[2]: 'quantize' after ['export', 'quantize']: its weights are integers already; leave one out",
        ),
        (
            [{**DISTILL, "quantize_aware": True}, EXPORT],
            "compression[0].quantize_aware=true: no step quantize with per_channel",
        ),
        (
            [{**DISTILL, "quantize_aware": True}, EXPORT, {**QUANTIZE, "per_channel": False}],
            "compression[0].quantize_aware=true: no step quantize with per_channel=true",
        ),
        ([{"step": "cluster"}, {"step": "fold"}, EXPORT, {"step": "code"}], "out of their codebooks; fold before it"),
        ([{"step": "cluster"}, PRUNE, EXPORT, {"step": "code"}], "zeros are a weight more than its codebooks have"),
        ([EXPORT, {"step": "code"}, QUANTIZE], "'quantize' after ['export', 'code']: weights out of codebooks"),
        ([{"step": "cluster"}, EXPORT, QUANTIZE], "'cluster' makes a file smaller only with 'code' after export"),
    ],
)
def test_steps_in_an_order_that_cannot_work_are_refused(steps: list[dict[str, Any]], said: str):
    assert said in refusal(compression=steps)


def test_a_step_that_learns_rounded_goes_before_the_one_that_rounds():
    assert recipe(compression=[PRUNE, {**DISTILL, "quantize_aware": True}, EXPORT, QUANTIZE])


def test_a_step_that_keeps_zeros_is_refused_where_workers_hold_parts_of_the_weights():
    said = refusal(compression=[PRUNE, DISTILL, EXPORT], engine={"workers": 2, "pipeline_stages": 2})
    assert said.startswith("compression[1].keep_zeros=true: with engine.pipeline_stages=2 a worker holds parts")


def test_two_steps_of_a_kind_work_under_two_names():
    steps = [{**PRUNE, "name": "first"}, {**PRUNE, "name": "second"}, EXPORT]
    space = {"compression.second.sparsity": {"choice": [0.1, 0.2]}}
    made = recipe(compression=steps, search={"space": space}).at({"compression.second.sparsity": 0.2})
    assert [step.model_dump().get("sparsity") for step in made.compression] == [0.3, 0.2, None]


@pytest.mark.parametrize("name", ["50% of all", "../../elsewhere", "a/b", "", " ", "x" * 65, "a.b"])
def test_a_step_has_a_name_that_metrics_and_folders_can_bear(name: str):
    with pytest.raises(ValidationError, match=r"compression\.\d\.prune\.name"):
        recipe(compression=[{**PRUNE, "name": name}, EXPORT])
    assert recipe(compression=[{**PRUNE, "name": "zweite Stufe-2"}, EXPORT]).compression[0].title == "zweite Stufe-2"
