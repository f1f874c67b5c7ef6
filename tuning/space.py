"""Search spaces: from the recipe's domains to Ray Tune's, and back to plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.schema.search import Domain


def param_space(space: Mapping[str, Domain]) -> dict[str, Any]:
    """Ray Tune domains by the same dotted keys."""
    from ray import tune

    return {key: getattr(tune, domain.kind)(*_arguments(domain)) for key, domain in space.items()}


def _arguments(domain: Domain) -> tuple[Any, ...]:
    value = getattr(domain, domain.kind)
    return (value,) if domain.kind == "choice" else tuple(value)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Suggested values as a recipe holds them: hyperopt hands lists back as tuples, numbers as numpy's."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value.item() if hasattr(value, "item") else value
