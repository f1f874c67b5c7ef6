"""Addresses as they may be shown: without the user, and without what gives access."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

USER = re.compile(r"(?<=://)[^\s/?#]*@")
QUERY = re.compile(r"(://[^\s?]*)\?(?=[\w%&=+~.-])\S*?(?=[:;,.'\")\]}>]*(?:\s|$))")  # not what ends the sentence


def shown_urls(text: str) -> str:
    """A source, or a message that names some, without the user and query of its URLs; `?…` stands for a query.

    Signed URLs carry their permission in the query, others a password before the host.
    """
    return QUERY.sub(r"\1?…", USER.sub("", text)) if "://" in text else text


def shown_urls_in(value: Any) -> Any:
    """`shown_urls` of every text in a recipe."""
    if isinstance(value, Mapping):
        return {key: shown_urls_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shown_urls_in(each) for each in value]
    return shown_urls(value) if isinstance(value, str) else value
