"""The recipe of a verb that searches: what is searched exists, and takes its values."""

from __future__ import annotations

import copy
import functools
import itertools
import operator
from collections.abc import Iterator
from typing import Any, Self

from pydantic import ValidationError, ValidationInfo, model_validator

from configs.errors import UsageError
from configs.loader import Overrides, assign, says
from configs.schema.recipe import Recipe

MOST_PAIRS = 100  # pairs of searched choices that are tried when a recipe is read: some milliseconds each
IN_A_SPACE = {  # where pydantic speaks of a value alone
    "extra_forbidden": "no such field",
    "int_from_float": "a whole number is needed, as choice or randint give",
}


class SearchRecipe(Recipe):
    """The recipe of a verb that searches: each searched field exists, takes its values, and is not given on the command
    line besides. Other verbs ignore the space."""

    @model_validator(mode="after")
    def what_is_searched_is_not_given_besides(self, info: ValidationInfo) -> Self:
        tree: Any = self.model_dump()
        overrides: Overrides = info.context or ()
        for key in self.search.space if overrides else ():
            try:
                place = assign(copy.deepcopy(tree), key, None)
            except UsageError:  # a list without that item, which the next validator refuses
                continue
            if says(overrides, place):
                value = functools.reduce(operator.getitem, place, tree)
                raise ValueError(
                    f"{key}: {value!r}: it is searched, so that trials would ignore this value; leave it out, or take "
                    f"the field from the space (search.space.{key}=null, or search.space={{}} for all)"
                )
        return self

    @model_validator(mode="after")
    def searched_fields_exist_and_take_their_values(self) -> Self:
        tree = self.model_dump()
        tree["search"]["space"] = {}
        for key, domain in self.search.space.items():
            for value in domain.probes():
                _try(tree, {key: value})
        for pair in itertools.islice(self._pairs_of_choices(), MOST_PAIRS):
            _try(tree, pair)
        return self

    def _pairs_of_choices(self) -> Iterator[dict[str, Any]]:
        for (key, one), (other, two) in itertools.combinations(self.search.space.items(), 2):
            for values in itertools.product(one.choice or (), two.choice or ()):
                yield dict(zip((key, other), values, strict=True))


def _try(tree: dict[str, Any], values: dict[str, Any]) -> None:
    changed = copy.deepcopy(tree)
    key, *others = values
    remedy = f"change it in the space, or take it out (search.space.{key}=null, or search.space={{}} for all)"
    try:
        for each, value in values.items():
            assign(changed, each, value)
        Recipe.model_validate(changed)
    except UsageError as error:
        raise ValueError(f"search.space.{error}; {remedy}") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = IN_A_SPACE.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        beside = "".join(f" with {each} {values[each]!r}" for each in others)
        raise ValueError(f"search.space.{key}: cannot be {values[key]!r}{beside}: {reason}; {remedy}") from None
