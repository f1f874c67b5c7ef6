"""Which personal data is replaced before a model reads a text; bundles say it, too."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

RedactKind = Literal["email", "phone", "card", "iban", "id_cn", "order"]


class Redaction(BaseModel):
    """The kinds, and a shop's own pattern for `order`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: list[RedactKind] = Field(description="each replaced by its name, [EMAIL]")
    order_pattern: str | None = None
