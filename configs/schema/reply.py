"""Section `reply` of a recipe: replies to messages by their class."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.loader import Spec


class ReplySpec(Spec):
    """A message is answered with the template of its class, or handed over where the class is not sure enough or a
    placeholder has no value. In a template `{{name}}` is a placeholder, which a request's fields fill."""

    column: str | None = Field(
        default=None,
        min_length=1,
        description="classify: column of the training and validation rows that holds the reply to each message; none = "
        "there are no replies",
    )
    source: Literal["template", "decoder", "auto"] = Field(
        default="template",
        description="template = the central reply of the training rows of a class; decoder = the central one of what a "
        "decoder writes for its messages; auto = the one with the higher ROUGE-L on validation rows",
    )
    decoder: str | None = Field(
        default=None,
        min_length=1,
        description="decoder, auto: bundle of a decoder that writes a reply to a message: a folder, or "
        "models:/<name>@<alias>",
    )
    fields: list[str] = Field(
        default_factory=list,
        description="columns of values that a reply may say of its own message, such as an order number: in a template "
        "they become placeholders, and requests give them in their fields",
    )
    min_right: float = Field(
        default=0.98,
        gt=0,
        le=1,
        description="share of the answered validation rows whose class is right, with budget.margin standard errors to "
        "spare; the rest is handed over",
    )
    messages: int = Field(
        default=16, ge=1, description="decoder, auto: training messages of a class that the decoder replies to"
    )

    @model_validator(mode="after")
    def nothing_is_asked_in_vain(self) -> Self:
        changed = self.model_dump(exclude_defaults=True)
        if changed and self.column is None:
            raise ValueError(
                f"{next(iter(changed))}: column is none, so there are no replies; name it, or leave it out"
            )
        if self.source == "template" and (name := next((n for n in ("decoder", "messages") if n in changed), None)):
            raise ValueError(f"{name}: source='template' asks no decoder; set source=decoder or auto, or leave it out")
        if self.source != "template" and self.decoder is None:
            raise ValueError(f"decoder: none: source={self.source!r} needs the bundle of a decoder; give it")
        return self

    @model_validator(mode="after")
    def columns_are_different_ones(self) -> Self:
        for index, column in enumerate(self.fields):
            if column == self.column or column in self.fields[:index]:
                raise ValueError(f"fields: {column!r}: it is the column of the replies, or given twice; leave it out")
            if not column.strip() or set("{}") & set(column) or column != column.strip():
                raise ValueError(f"fields: {column!r}: cannot be the name of a placeholder; rename the column")
        return self

    def check_beside(self, *inputs: str | None) -> None:
        """Raise `ValueError` where a column is one of the inputs or the label."""
        for name, columns in (("column", [self.column]), ("fields", self.fields)):
            if wrong := next((each for each in columns if each is not None and each in inputs), None):
                raise ValueError(f"reply.{name}: {wrong!r}: is an input or the label; name another column")
