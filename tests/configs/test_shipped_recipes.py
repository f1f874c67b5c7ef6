from pathlib import Path

import pytest
import yaml

from configs.loader import describe, load
from configs.schema.recipe import Recipe
from configs.schema.search_recipe import SearchRecipe
from tuning.pareto import LIMITS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def test_a_base_is_shipped():
    assert CONFIGS / "base.yaml" in SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_loads(path: Path):
    recipe = load(SearchRecipe, path)
    assert recipe.name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_that_can_be_searched_searches_inside_all_limits(path: Path):
    recipe = load(SearchRecipe, path)
    searches = recipe.name not in ("base", "smoke")
    assert bool(recipe.search.space) == searches
    limits = [getattr(recipe.budget, field) for field, _, _ in LIMITS if recipe.judged_by.uses("budget", field)]
    assert all(limits) == searches


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_looks_for_the_cheapest_and_does_not_prune(path: Path):
    """Zeros change neither bytes nor time of a dense file."""
    recipe = load(SearchRecipe, path)
    assert recipe.search.objective == "cheapest"
    assert "prune" not in [each.step for each in recipe.compression]
    assert not [key for key in recipe.search.space if "prune" in key]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_recipe_is_the_same_when_printed_and_loaded_again(path: Path, tmp_path: Path):
    recipe = load(Recipe, path)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    assert load(Recipe, again) == recipe


def test_shipped_recipes_have_names_of_their_own():
    names = [load(Recipe, path).name for path in SHIPPED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_help_knows_every_key_of_a_shipped_recipe(path: Path):
    sections = {key for key in yaml.safe_load(path.read_text(encoding="utf-8")) if key != "extends"}
    assert sections <= {key.split(".")[0] for key, *_ in describe(Recipe)}
