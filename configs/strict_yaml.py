"""YAML as recipes are written in it: a key stands once, and a small file stays small."""

from __future__ import annotations

from typing import Any

import yaml

from configs.errors import UsageError

MOST_YAML_ALIASES = 32  # nine aliases of nine aliases of ... is how a small file becomes a large one
STANDS_FOR_HASH = "\ue000"  # of a private area: no text has it
MERGE_TAG = "tag:yaml.org,2002:merge"


def parse_yaml(text: str, where: str, loader: type[StrictLoader] | None = None) -> Any:
    """The value in `text`; a key given twice, an alias bomb or bad YAML is a `UsageError` naming `where`."""
    try:
        return yaml.load(text, Loader=loader or StrictLoader)  # noqa: S506 - a SafeLoader that refuses more
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        problem = ": ".join(filter(None, [error.context, error.problem])) or "not YAML"
        raise UsageError(f"{where}:{line} {one_line(problem)}; write it as YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not YAML: {one_line(str(error))}") from None


class StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice (plain YAML keeps the last) and more aliases than a recipe needs."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_YAML_ALIASES:
                raise yaml.MarkedYAMLError(problem=f"more than {MOST_YAML_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        return super().construct_object(node, deep=True)  # depth first, which refuses a value that holds itself

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            problem = None
            key = "<<" if key_node.tag == MERGE_TAG else self.construct_object(key_node)
            if key_node.tag == MERGE_TAG:
                problem = "the key '<<' is not understood, use extends"
            elif not isinstance(key, str):
                problem = f"the key {key!r} is no text, put it in quotes"
            elif key in seen:
                problem = f"the key {key!r} is given twice, keep one"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class TextLoader(StrictLoader):
    """Reads texts alone: `1`, `yes` and `null` are texts, too, and ` #` begins no comment."""

    def __init__(self, text: str) -> None:
        super().__init__(text.replace("#", STANDS_FOR_HASH))

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return super().resolve(kind, value, (False, True) if kind is yaml.ScalarNode else implicit)

    def construct_scalar(self, node: Any) -> Any:
        return super().construct_scalar(node).replace(STANDS_FOR_HASH, "#")


def one_line(text: str) -> str:
    """A text without line ends and spaces in a row."""
    return " ".join(text.split())
