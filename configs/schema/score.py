"""Section `score` of a recipe: rows of a file answered by a bundle."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.loader import UNKEYED, Spec


class ScoreSpec(Spec):
    """Which rows are answered, and how what a bundle says of them is written."""

    input: str | None = Field(
        default=None,
        min_length=1,
        description="rows to answer: a file or URL of JSON Lines, CSV or Parquet (plain, .gz, .bz2 or .xz), a folder "
        "of such files, or a pattern of their names such as /data/2026-*.jsonl; or env:NAME",
        json_schema_extra=UNKEYED,
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="folder of the answers, one of its own, under $SLIMCART_HOME; default: <output>/scores",
        json_schema_extra=UNKEYED,
    )
    format: Literal["jsonl", "csv", "parquet"] = Field(default="jsonl", description="of the answers' files")
    keep: list[str] | None = Field(
        default=None,
        description="columns of the rows that stand beside the answers, such as [id]; none = all; [] = no column",
    )
    prefix: str = Field(
        default="",
        description="begins the names of the answers' columns, such as predicted_, where the rows have a column label, "
        "score or text of their own",
    )
    scores: bool = Field(default=False, description="classify: also the probability of every label")
    details: bool = Field(default=False, description="also the share of unknown tokens, and whether the text was cut")
    rows_per_file: int = Field(
        default=2000, ge=1, description="rows of one file of answers; after a kill only files not yet whole are made"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="processes that answer, each with a model of its own and serving.threads cores; none = as many as "
        "the cluster has cores for",
        json_schema_extra=UNKEYED,
    )

    @model_validator(mode="after")
    def columns_are_different_ones(self) -> Self:
        for index, column in enumerate(self.keep or ()):
            if column in (self.keep or ())[:index]:
                raise ValueError(f"keep: {column!r} is given twice")
        return self
