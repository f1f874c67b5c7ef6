"""Section `data` of a recipe."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from configs.loader import Spec

EMBEDDED = "embedded:shop"


class DataSpec(Spec):
    """Where rows come from. A source is a file or URL of JSON Lines, CSV or Parquet (plain or .gz), a Hub id
    `owner/name` (optionally `@revision`), or `embedded:shop`, generated messages of a shop's customers."""

    train: str = Field(default=EMBEDDED, min_length=1, description="source of the rows to learn from")
    validation: str = Field(
        default=EMBEDDED, min_length=1, description="source of the rows that every choice is made on"
    )
    test: str | None = Field(
        default=EMBEDDED, min_length=1, description="source of the rows opened once, by the final evaluation"
    )
    text: str = Field(
        default="text",
        min_length=1,
        description="column of the text, or of attributes: an object, or a list of [name, value]",
    )
    text_pair: str | None = Field(default=None, description="column of the second text, for pairs")
    label: str = Field(default="label", min_length=1, description="column of the class, or of the text to generate")
    slices: list[str] = Field(
        default_factory=list,
        description="columns of the test rows; the evaluation compares winner and teacher at each of their values",
    )
    max_length: int = Field(
        default=64, ge=4, le=8192, description="tokens kept of a text (of prompt and completion), special ones included"
    )
    packing: bool = Field(
        default=True,
        description="generate: texts share rows of max_length tokens, none sees another, little is padding",
    )

    @model_validator(mode="after")
    def slices_are_further_columns_of_test_rows(self) -> Self:
        if self.slices and self.test is None:
            raise ValueError(f"slices: {self.slices} are columns of the test rows; give data.test")
        for index, column in enumerate(self.slices):
            if column in (self.text, self.text_pair, self.label):
                raise ValueError(f"slices: {column!r} is an input or the label; classes are compared unasked")
            if column in self.slices[:index]:
                raise ValueError(f"slices: {column!r} is given twice")
        return self
