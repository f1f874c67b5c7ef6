"""What may be shown of an address: neither who asks nor what lets them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

USER = re.compile(r"(?<=://)[^\s/?#]*@")
QUERY = re.compile(r"(://[^\s?]*)\?(?=[\w%&=+~.-])\S*?(?=[:;,.'\")\]}>]*(?:\s|$))")  # not what ends the sentence


def public(text: str) -> str:
    """A source, or a message that names some, without the user and query of its URLs; `?…` stands for a query.

    Signed URLs carry their permission in the query, others a password before the host.
    """
    return QUERY.sub(r"\1?…", USER.sub("", text)) if "://" in text else text


def public_tree(value: Any) -> Any:
    """The same of every text in a recipe."""
    if isinstance(value, Mapping):
        return {key: public_tree(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public_tree(each) for each in value]
    return public(value) if isinstance(value, str) else value
