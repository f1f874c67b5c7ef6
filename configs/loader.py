"""Reads recipes: YAML files that extend one another, dotted overrides, and refusals of one line.

Every refusal is a `UsageError` whose text names the file, the field, the value and what would work.
"""

from __future__ import annotations

import difflib
import functools
import operator
import re
import types
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, LiteralString, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, PydanticUndefined

from configs.annotations import (
    Place,
    annotation_at,
    bounds,
    free_places,
    leaves,
    members,
    models,
    takes_text,
    type_name,
    without_none,
)
from configs.errors import UsageError
from configs.strict_yaml import StrictLoader, TextLoader, one_line, parse_yaml

LARGEST_RECIPE_BYTES = 1 << 20
COMMAND_LINE = "command line"
# The fields in our messages, `a.b[0].c: ` or `field=value`.
NAMED = re.compile(r"(?<![\w.\]])([a-z_]+(?:\.\w+|\[\d+\])*)(?==|: )")
IN_PLAIN_WORDS = {  # where pydantic speaks of Python
    "model_type": "a mapping of fields is expected",
    "model_attributes_type": "a mapping of fields is expected",
    "dict_type": "a mapping is expected",
    "string_type": "text is expected; in quotes everything is",
    "union_tag_not_found": "say which one with the key 'step'",
}


# Of a field that is no part of a stage's key: it changes no result, or the key holds a digest of what it names.
UNKEYED: dict[str, JsonValue] = {"keyed": False}


class Spec(BaseModel):
    """Base of every section of a recipe: frozen; refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def keyed(self) -> dict[str, Any]:
        """The fields that a stage's key holds, as JSON: all but those that are declared `UNKEYED`."""
        names = {name for name, field in type(self).model_fields.items() if field.json_schema_extra != UNKEYED}
        parts = {name: getattr(self, name) for name in names}
        nested = {name: part.keyed() for name, part in parts.items() if isinstance(part, Spec)}
        return self.model_dump(include=names - nested.keys()) | nested

    @model_validator(mode="before")
    @classmethod
    def true_is_no_number(cls, values: Any) -> Any:
        """Refuse `true` for a number, and `1` or "yes" for true; pydantic alone takes them."""
        for name, value in values.items() if isinstance(values, dict) else ():
            kinds = set(leaves(cls.model_fields[name].annotation)) if name in cls.model_fields else set()
            items = value if isinstance(value, list | tuple) else [value]
            if kinds & {int, float} and not kinds & {bool, Any} and any(isinstance(item, bool) for item in items):
                raise _wrong(cls, name, value, "a number is expected")
            if kinds == {bool} and not isinstance(value, bool):
                raise _wrong(cls, name, value, "write true or false")
        return values


S = TypeVar("S", bound=BaseModel)
Origins = dict[Place, str]
Overrides = Sequence[tuple[Place, Any]]  # place and value from the command line; the context of a recipe's validators


def load(model: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """The recipe in `path`, laid over what it extends, under `section.field=value` overrides."""
    origins: Origins = {}
    free = frozenset(free_places(model))
    tree = read(Path(path), origins, free)
    placed: list[tuple[Place, Any]] = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise UsageError(f"{COMMAND_LINE}: {override!r} is not of the form section.field=value")
        _show_default_list(model, tree, dotted.split(".")[0])
        try:
            place = place_of(tree, dotted, free)
            value = _written(text, annotation_at(model, place, tree), dotted)
            _put(tree, place, value, free)
        except UsageError as error:
            raise UsageError(f"{COMMAND_LINE}: {error}") from None
        for depth in range(1, len(place)):
            origins.setdefault(place[:depth], COMMAND_LINE)
        _note_origins(value, place, COMMAND_LINE, origins)
        placed.append((place, value))
    return validate(model, tree, str(path), origins, placed)


def read(path: Path, origins: Origins, free: Collection[Place] = (), chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in `path` merged over the recipes that it `extends`; notes which file gave which key."""
    try:
        resolved = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, links in a circle
        raise UsageError(f"{path}: no file can be there: {error}") from None
    if resolved in chain:
        loop = " -> ".join(each.name for each in (*chain, resolved))
        raise UsageError(f"{path}: extends: {loop}: a recipe cannot extend itself, remove one of these lines")
    tree = parse_yaml(_text(path, chain), str(path))
    if tree is None:
        raise UsageError(f"{path}: the file is empty; a recipe is a mapping such as 'name: my-recipe'")
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: the top is a {_kind(tree)}; a recipe is a mapping such as 'name: my-recipe'")
    base = tree.pop("extends", None)
    if base is None:
        merged: dict[str, Any] = {}
    elif isinstance(base, str):
        merged = read(path.parent / base, origins, free, (*chain, resolved))
    else:
        raise UsageError(f"{path}: extends: {base!r} is a {_kind(base)}; give the path of one recipe")
    _note_origins(tree, (), str(path), origins)
    return merge(merged, tree, free)


def merge(base: dict[str, Any], over: dict[str, Any], free: Collection[Place] = (), at: Place = ()) -> dict[str, Any]:
    """Lay `over` on `base`: mappings are merged key by key, anything else (lists too) is replaced whole.

    `free` holds the places of the mappings whose keys the user chooses; `at` is the place of this mapping. A free
    mapping has its values replaced whole; null removes a key, and {} removes all keys.
    """
    merged = dict(base) if over or at not in free else {}
    for key, value in over.items():
        below = merged.get(key)
        if at in free and value is None and key in merged:
            del merged[key]
        elif at not in free and isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value, free, (*at, key))
        else:
            merged[key] = value
    return merged


def assign(tree: dict[str, Any], dotted: str, value: Any, free: Collection[Place] = ()) -> Place:
    """Set `a.b.c` in a nested mapping in place, see `place_of`; null removes a `free` key, as in `merge`."""
    place = place_of(tree, dotted, free)
    _put(tree, place, value, free)
    return place


def place_of(tree: dict[str, Any], dotted: str, free: Collection[Place] = ()) -> Place:
    """The place that `a.b.c` names, list items by index; mappings on the way to it are made.

    A list item is addressed by its `name`, or else its `step`. The rest of `dotted` is one key in a mapping of `free`
    keys.
    """
    *path, last = _split(dotted, free)
    node: Any = tree
    place: list[str | int] = []
    for index, key in enumerate(path):
        if isinstance(node, list):
            at = _index(node, key, dotted)
            place.append(at)
            node = node[at]
        else:
            place.append(key)
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise UsageError(f"{dotted}: {'.'.join(path[: index + 1])} is {_show(node)} and has no fields")
    if isinstance(node, list):
        raise UsageError(f"{dotted}: {'.'.join(path)} is a list; name a field of one of its items")
    return (*place, last)


def _put(tree: dict[str, Any], place: Place, value: Any, free: Collection[Place]) -> None:
    *above, last = place
    node: Any = tree
    for key in above:
        node = node[key]
    if value is None and tuple(above) in free and last in node:
        del node[last]
    else:
        node[last] = value


def _written(text: str, annotations: Sequence[Any], where: str) -> Any:
    """The value of an override: a text as it stands, anything else as YAML.

    Where a field takes texts only, `null` or nothing is none if the field may be none. Of a list or mapping of texts
    each text that is not in quotes stands for itself.
    """
    holders = [each for each in annotations if get_origin(each) in (list, tuple, dict)]
    plain = [each for each in annotations if each not in holders]
    if holders and text.lstrip()[:1] in ("[", "{"):
        values = [each for holder in holders for each in members(get_args(holder)[-1])]
        return parse_yaml(text, where, TextLoader if takes_text(values) else StrictLoader)
    if types.NoneType in plain and text.strip() in ("", "null"):
        return None
    if takes_text(plain):
        return text
    value = parse_yaml(text, where)
    return text if str in plain and type(value) not in plain else value


def _split(dotted: str, free: Collection[Place]) -> list[str]:
    for place in free:
        if dotted.startswith(prefix := f"{_dotted(place)}."):
            return [*map(str, place), dotted.removeprefix(prefix)]
    return dotted.split(".")


def says(overrides: Overrides, place: Place) -> bool:
    """Whether an override sets the value at `place`, a part of it, or a mapping that contains it."""
    return any(at[: len(place)] == place or _holds(value, place, at) for at, value in overrides)


def _holds(value: Any, place: Place, at: Place) -> bool:
    if place[: len(at)] != at:
        return False
    try:
        functools.reduce(operator.getitem, place[len(at) :], value)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def validate(
    model: type[S],
    tree: dict[str, Any],
    source: str,
    origins: Origins | None = None,
    overrides: Overrides = (),
) -> S:
    """`tree` as `model`; the first thing wrong with it becomes a one-line `UsageError`."""
    try:
        return model.model_validate(tree, context=overrides)
    except ValidationError as error:
        raise UsageError(_explain(model, tree, error.errors(), source, origins or {})) from None


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, type, default, description) of every field, depth first: what `--help` prints."""
    for name, field in model.model_fields.items():
        key = prefix + name
        inner, kind = models(field.annotation), get_origin(without_none(field.annotation))
        either = kind in (Union, types.UnionType)  # a union of plain values and a mapping
        if len(inner) == 1 and not either and kind not in (list, tuple, dict):
            yield from describe(inner[0], f"{key}.")
            continue
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        shown = "required" if default is PydanticUndefined or field.is_required() else _show(default)
        kind_of_value = " ".join([type_name(field.annotation), *bounds(field.metadata)])
        yield key, kind_of_value, shown, field.description or ""
        for each in inner:
            tags = get_args(each.model_fields["step"].annotation) if "step" in each.model_fields else ()
            yield from describe(each, f"{key}." if either else f"{key}[{next(iter(tags), '?')}].")


def _wrong(model: type[BaseModel], field: str, value: Any, message: LiteralString) -> ValidationError:
    detail = InitErrorDetails(type=PydanticCustomError("wrong_kind", message), loc=(field,), input=value)
    return ValidationError.from_exception_data(model.__name__, [detail])


def _text(path: Path, chain: tuple[Path, ...]) -> str:
    said_by = f" (extended by {chain[-1]})" if chain else ""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_RECIPE_BYTES + 1)  # a device or a pipe has no size to ask for
        if len(content) > LARGEST_RECIPE_BYTES:
            raise UsageError(f"{path}: larger than {LARGEST_RECIPE_BYTES} bytes; this is no recipe")
        return content.decode("utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.stem, [each.stem for each in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}.yaml?" if near else ""
        raise UsageError(f"{path}: no such file{said_by}{hint}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}{said_by}") from None


def _show_default_list(model: type[BaseModel], tree: dict[str, Any], key: str) -> None:
    """Write out a list that the recipe leaves at its default: an override may name one of its items."""
    if key in model.model_fields and tree.get(key) is None:
        default = model.model_fields[key].get_default(call_default_factory=True)
        if isinstance(default, list):
            tree[key] = [each.model_dump() if isinstance(each, BaseModel) else each for each in default]


def _index(items: list[Any], key: str, dotted: str) -> int:
    named = [
        index
        for index, each in enumerate(items)
        if isinstance(each, dict) and key in (each.get("name"), each.get("step"))
    ]
    if len(named) == 1:
        return named[0]
    known = ", ".join(str(each.get("name") or each.get("step")) for each in items if isinstance(each, dict))
    problem = "matches several items; give each a name" if named else "matches no item"
    raise UsageError(f"{dotted}: {key!r} {problem} (items here: {known or 'none'})")


def _note_origins(value: Any, at: Place, source: str, origins: Origins) -> None:
    origins[at] = source
    if isinstance(value, dict):
        for key, below in value.items():
            _note_origins(below, (*at, key), source, origins)


def _explain(
    model: type[BaseModel], tree: dict[str, Any], errors: list[ErrorDetails], source: str, origins: Origins
) -> str:
    first = _place(errors[0], tree)
    same = [each for each in errors if _place(each, tree)[: len(first)] == first]
    error = max(same, key=lambda each: len(_place(each, tree)))  # the member of a union that fits best
    loc, place = error["loc"], _place(error, tree)
    origin = next((origins[place[:n]] for n in range(len(place), -1, -1) if place[:n] in origins), source)
    field = _dotted(place)
    message = _message([error, *(each for each in same if _place(each, tree) == place)])
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{origin}: {field}: unknown key (value {_show(error['input'])}); {remedy}"
    if error["type"] == "missing":
        return f"{origin}: {field}: missing; it has no default, so give a value"
    if error["type"] == "value_error":  # our own validators quote the values themselves
        if isinstance(error["input"], dict):  # an error of several fields, which the message names
            origin = _origin(message, field, origins) or origin
        return ": ".join(filter(None, [origin, field, message]))
    return f"{origin}: {field}: got {_show(error['input'])}; {message}"


def _message(errors: Sequence[ErrorDetails]) -> str:
    """The faults of a value, one for every kind of value that its field takes."""
    plain = (IN_PLAIN_WORDS.get(each["type"]) or each["msg"].removeprefix("Value error, ") for each in errors)
    first, *others = dict.fromkeys(map(one_line, plain))
    return ", or ".join([first, *(each.removeprefix("Input should be ") for each in others)])


def _origin(message: str, section: str, origins: Origins) -> str | None:
    """The source of a field of `section` that the message names: the command line if it gave one, else the first."""
    known = {_dotted(place): source for place, source in origins.items()}
    names = [".".join(filter(None, [section, name])) for name in NAMED.findall(message)]
    sources = [known[name] for name in names if name in known]
    if COMMAND_LINE in sources:
        return COMMAND_LINE
    lists = [known[whole] for name in names if (whole := name.partition("[")[0]) in known]
    return next(iter(sources + lists), None)


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    options: list[type[BaseModel]] = [model]
    for key in loc:
        fields = [each.model_fields[key] for each in options if isinstance(key, str) and key in each.model_fields]
        if fields:
            options = [inner for field in fields for inner in models(field.annotation)]
        else:  # an index, or the tag of a union
            tagged = [each for each in options if "step" in each.model_fields]
            options = [each for each in tagged if key in get_args(each.model_fields["step"].annotation)] or options
    return sorted({name for each in options for name in each.model_fields})


def _place(error: ErrorDetails, tree: Any) -> Place:
    """The place of the error in `tree`: pydantic's `loc` without the members of unions that pydantic adds."""
    place: list[str | int] = []
    node = tree
    for key in error["loc"]:
        below: Any = node
        if isinstance(node, list) if isinstance(key, int) else isinstance(node, dict) and key in node:
            place.append(key)
            node = below[key]
    return (*place, error["loc"][-1]) if error["type"] == "missing" else tuple(place)


def _dotted(place: Place) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", type(None): "blank"}
    return names.get(type(value), type(value).__name__)


def _show(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    text = one_line(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
