"""Reads the annotations of a recipe's fields: what kinds of values a place in a recipe takes."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Place = tuple[str | int, ...]


def leaves(annotation: Any) -> Iterator[Any]:
    """The plain types inside an annotation: int and None of `list[int] | None`."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif args := get_args(annotation):
        for each in args:
            yield from leaves(each)
    else:
        yield annotation


def free_places(model: type[BaseModel], at: Place = ()) -> Iterator[Place]:
    """The mappings in a recipe whose keys are free to choose, such as `search.space`."""
    for name, field in model.model_fields.items():
        annotation = without_none(field.annotation)
        if get_origin(annotation) is dict:
            yield (*at, name)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from free_places(annotation, (*at, name))


def annotation_at(model: type[BaseModel], place: Place, tree: Any) -> list[Any]:
    """The annotations of what stands at `place`, without unions; `tree` says of which kind an item of a list is."""
    found: list[Any] = [model]
    for key in place:
        tree = _below(tree, key)
        found = [each for annotation in found for below in _parts(annotation, key, tree) for each in members(below)]
    return found


def members(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if hasattr(annotation, "__metadata__"):
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for argument in get_args(annotation) for each in members(argument)]
    return [annotation]


def takes_text(annotations: Sequence[Any]) -> bool:
    """Whether text is all that these take, beside none."""
    kinds = {kind for each in annotations for kind in ([each] if get_origin(each) is not Literal else leaves(each))}
    return kinds - {types.NoneType} == {str}


def _below(tree: Any, key: str | int) -> Any:
    try:
        return tree[key]
    except (LookupError, TypeError):
        return None


def _parts(annotation: Any, key: str | int, value: Any) -> list[Any]:
    """The annotations of what stands under `key` in a value of one annotation."""
    if get_origin(annotation) in (list, tuple):
        step = value.get("step") if isinstance(value, dict) else None
        items = members(get_args(annotation)[0])
        return [each for each in items if step is None or step in _steps(each)]
    if get_origin(annotation) is dict:
        return [get_args(annotation)[-1]]
    fields = getattr(annotation, "model_fields", {})
    return [fields[key].annotation] if key in fields else []


def _steps(annotation: Any) -> Sequence[str]:
    fields = getattr(annotation, "model_fields", {})
    return get_args(fields["step"].annotation) if "step" in fields else ()


def models(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models(argument)]


def without_none(annotation: Any) -> Any:
    """The other member of a union of one with none, or the annotation as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [each for each in get_args(annotation) if each is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def type_name(annotation: Any) -> str:
    """An annotation in the words of `--help`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " | ".join("none" if each is type(None) else type_name(each) for each in args)
    if origin in (list, tuple):
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"mapping of {type_name(args[-1])}"
    if hasattr(annotation, "__metadata__"):
        return type_name(args[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (
            next(map(str, get_args(annotation.model_fields["step"].annotation)), "mapping")
            if "step" in annotation.model_fields
            else "mapping"
        )
    return getattr(annotation, "__name__", str(annotation))


def bounds(metadata: Sequence[Any]) -> Iterator[str]:
    """The limits of a number, such as `>= 1`."""
    for each in metadata:
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if hasattr(each, name):
                yield f"{sign} {getattr(each, name)}"
