from pathlib import Path
from typing import Any

import pytest

from configs.loader import UsageError, load
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from tests.configs.schema.recipes import EXPORT, PRUNE, QUANTIZE, STEPS, recipe, refusal


@pytest.mark.parametrize(
    "domain",
    [{"uniform": [0, 0.9]}, {"choice": [0, 0.5]}, {"quniform": [0.1, 0.9, 0.1]}, {"loguniform": [0.01, 0.9]}],
)
def test_a_domain_whose_ends_are_allowed_is_taken(domain: dict[str, Any]):
    given = {"name": "intent", "compression": STEPS, "search": {"space": {"compression.prune.sparsity": domain}}}
    assert SearchRecipe.model_validate(given).search.space


@pytest.mark.parametrize(
    ("key", "domain", "said"),
    [
        ("student.depth", {"choice": [1]}, "student.depth: cannot be 1: no such field"),
        ("compression.shrink.sparsity", {"uniform": [0, 0.5]}, "'shrink' matches no item (items here: prune, "),
        ("compression.prune", {"choice": [0.5]}, "compression is a list; name a field of one of its items"),
        ("compression.prune.sparsity", {"uniform": [0, 1]}, "sparsity: cannot be 1.0: Input should be less than 1"),
        ("compression.prune.sparsity", {"uniform": [-0.1, 0.5]}, "sparsity: cannot be -0.1: "),
        ("compression.prune.sparsity", {"choice": [0.1, "much"]}, "sparsity: cannot be 'much': "),
        ("compression.prune.sparsity", {"choice": [0.1, True]}, "sparsity: cannot be True: a number is expected"),
        ("compression.prune.step", {"choice": ["export"]}, "compression.prune.step: cannot be 'export': "),
        ("distillation.temperature", {"uniform": [0, 4]}, "distillation.temperature: cannot be 0.0: "),
        ("distillation.temperature.x", {"choice": [1]}, "distillation.temperature is 4.0 and has no fields"),
        ("student.layers", {"randint": [0, 3]}, "student.layers: cannot be 0: "),
        ("student.hidden", {"choice": [0, 8]}, "student.hidden: cannot be 0: "),
        (
            "student.layers",
            {"quniform": [1, 3, 0.5]},
            "student.layers: cannot be 1.5: a whole number is needed, as choice or randint give; change it",
        ),
        ("student.hidden", {"loguniform": [96, 192]}, "student.hidden: cannot be 96.5: a whole number is needed, as "),
        ("distillation.epochs", {"uniform": [2, 6]}, "distillation.epochs: cannot be 2.5: a whole number is needed"),
        ("student.kernel", {"choice": [3, 5]}, "student.kernel: cannot be 5: kernel=5: for kind conv, "),
        (
            "student.model",
            {"choice": ["a", "b"]},
            "search.space.student.model: not searched; its rows are prepared once",
        ),
        (
            "engine.workers",
            {"choice": [1]},
            "search.space.engine.workers: not searched; keys start with student, distillation",
        ),
        ("teacher.epochs", {"choice": [1]}, "search.space.teacher.epochs: not searched"),
        ("data.max_length", {"choice": [16]}, "search.space.data.max_length: not searched"),
        ("", {"choice": [16]}, "search.space.: not searched"),
        (
            "distillation.pool.rows",
            {"choice": [9]},
            "search.space.distillation.pool.rows: not searched; the pool is made once",
        ),
    ],
)
def test_a_searched_field_must_exist_and_take_all_its_values(key: str, domain: dict[str, Any], said: str):
    message = refusal(SearchRecipe, compression=STEPS, search={"space": {key: domain}})
    assert message.startswith(f"search.space.{key}")
    assert said in message


def test_choices_that_fail_only_together_are_refused():
    space = {"student.hidden": {"choice": [192, 256]}, "student.heads": {"choice": [4, 3]}}
    said = refusal(SearchRecipe, search={"space": space})
    assert said.startswith(
        "search.space.student.hidden: cannot be 256 with student.heads 3: hidden=256 / heads=3: a wh"
    )
    space["student.heads"]["choice"] = [4, 8]
    assert SearchRecipe.model_validate({"name": "a", "search": {"space": space}})


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"student": {"kind": "conv", "layers": 2}}, "student.layers"),
        ({"compression": [EXPORT, QUANTIZE]}, "compression.prune.sparsity"),
        ({"compression": [{**PRUNE, "pattern": "2:4"}, EXPORT]}, "compression.prune.sparsity"),
    ],
    ids=["student of another kind", "without a searched step", "with a field instead of the searched one"],
)
def test_a_space_that_the_recipe_does_not_fit_stops_only_what_searches(fields: dict[str, Any], key: str):
    space = {"student.layers": {"choice": [[0, 2]]}, "compression.prune.sparsity": {"uniform": [0, 0.2]}}
    assert recipe(search={"space": space}, **fields)
    said = refusal(SearchRecipe, search={"space": space}, **fields)
    assert said.startswith(f"search.space.{key}: ")
    assert said.endswith(
        f"; change it in the space, or take it out (search.space.{key}=null, or search.space={{}} for all)"
    )


SEARCHED = """\
name: a
search:
  space:
    student.layers: {choice: [1, 2]}
    compression.prune.sparsity: {uniform: [0, 0.2]}
student: {layers: 3}
compression: [{step: prune}, {step: export}]
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.layers=2", "student.layers: 2: it is searched, so that trials would ignore this value; leave it out"),
        ("student={layers: 2}", "student.layers: 2: it is searched"),
        ("compression.prune.sparsity=0.5", "compression.prune.sparsity: 0.5: it is searched"),
        (
            "compression=[{step: prune, sparsity: 0.5}, {step: export}]",
            "compression.prune.sparsity: 0.5: it is searched",
        ),
    ],
)
def test_a_searched_field_is_not_given_on_the_command_line(tmp_path: Path, override: str, said: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(SEARCHED)
    with pytest.raises(UsageError) as refused:
        load(SearchRecipe, path, [override])
    assert said in str(refused.value)
    assert load(Recipe, path, [override])
    assert load(SearchRecipe, path, [override, "search.space={}"])
    both = ["search.space.student.layers=null", "search.space.compression.prune.sparsity=null"]
    assert load(SearchRecipe, path, [override, *both])


@pytest.mark.parametrize(
    "override", ["student.hidden=192", "student={hidden: 192}", "compression=[{step: prune}, {step: export}]"]
)
def test_a_field_beside_the_searched_ones_is_given_on_the_command_line(tmp_path: Path, override: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(SEARCHED)
    assert load(SearchRecipe, path, [override]).student.layers == 3


def test_whole_number_domains_leave_out_their_high_end():
    made = recipe(search={"space": {"student.layers": {"randint": [1, 4]}}})
    assert made.search.space["student.layers"].probes() == [1, 3]


def test_at_puts_values_in_place_and_leaves_nothing_to_search():
    space = {"student.layers": {"choice": [1, 2]}, "compression.prune.sparsity": {"uniform": [0, 0.5]}}
    before = recipe(compression=STEPS, search={"space": space})
    made = before.at({"student.layers": 2, "compression.prune.sparsity": 0.25})
    assert (made.student.layers, made.compression[0].model_dump()["sparsity"]) == (2, 0.25)
    assert made.search.space == {}
    assert before.student.layers == 3
    assert len(before.search.space) == 2


def test_students_of_several_sizes_and_kinds_are_searched():
    space = {"student.kind": {"choice": ["layers", "new", "conv"]}, "student.hidden": {"choice": [96, 192, None]}}
    made = recipe(student={"layers": 2}, search={"space": space}).at({"student.kind": "conv", "student.hidden": 96})
    assert (made.student.kind, made.student.hidden) == ("conv", 96)


def test_at_refuses_a_value_that_the_field_does_not_take():
    with pytest.raises(UsageError, match=r"^searched: compression\[0\]\.sparsity: got 1\.5; .*less than 1"):
        recipe(compression=STEPS).at({"compression.prune.sparsity": 1.5})
