"""Addresses as they may be shown: without the user, and without what gives access."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

USER = re.compile(r"(?<=://)[^\s/?#]*@")
QUERY = re.compile(r"(://[^\s?]*)\?(?=[\w%&=+~.-])\S*?(?=[:;,.'\")\]}>]*(?:\s|$))")  # not what ends the sentence
SHORTEST_HIDDEN = 6  # characters of a part of a place; a shorter one is a word of many messages

_hidden: dict[str, str] = {}  # by a place or a part of it: what is shown in its stead


def hide(place: str, name: str) -> None:
    """Have `shown_urls` show `name` for a place, also for its query, and what is asked of its host, alone."""
    address = urlsplit(place)
    asked = place.partition(address.netloc)[2] if address.netloc else ""
    parts = {place.partition("?")[0], address.query, asked, asked.partition("?")[0]}
    parts |= {unquote(part) for part in parts}
    _hidden.update(dict.fromkeys({place, *(part for part in parts if len(part) >= SHORTEST_HIDDEN)}, name))


def shown_urls(text: str) -> str:
    """A source, or a message that names some, without the user and query of its URLs; `?…` stands for a query.

    Signed URLs carry their permission in the query, others a password before the host. What is hidden is shown by name.
    """
    for part in sorted(_hidden, key=len, reverse=True):
        text = text.replace(part, _hidden[part])
    return QUERY.sub(r"\1?…", USER.sub("", text)) if "://" in text else text


def shown_urls_in(value: Any) -> Any:
    """`shown_urls` of every text in a recipe."""
    if isinstance(value, Mapping):
        return {key: shown_urls_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shown_urls_in(each) for each in value]
    return shown_urls(value) if isinstance(value, str) else value
