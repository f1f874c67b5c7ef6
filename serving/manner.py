"""Style and length of texts, where training rows taught them: words that stand before a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.inputs import Slots, worded

FIELDS = ("style", "length")  # of a request, in the order in which a prompt names them
LENGTHS = ("short", "medium", "long")


def in_manner(prompt: str, manner: Slots) -> str:
    """What a model reads of a prompt, the same in training and in use."""
    return f"{worded(manner)}\n{prompt}" if manner else prompt


def asked_manner(asked: Mapping[str, str | None], taught: Mapping[str, Sequence[str]]) -> Slots:
    """The fields that are given. Raises `ValueError`, (field, what it may be), for one that no row taught."""
    given = [(field, value) for field in FIELDS if (value := asked[field]) is not None]
    for field, value in given:
        if field not in taught:
            raise ValueError(field, "left out: the rows of this model taught none")
        if value not in taught[field]:
            raise ValueError(field, f"one of {', '.join(taught[field])}")
    return tuple(given)
