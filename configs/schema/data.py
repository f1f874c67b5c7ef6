"""Section `data` of a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from configs.loader import Spec
from configs.schema.redaction import Redaction, RedactKind

EMBEDDED = "embedded:shop"
DATA_FILE = re.compile(r"\.(?P<kind>jsonl|ndjson|json|csv|parquet)(?:\.(?P<packed>gz|bz2|xz))?$", re.IGNORECASE)
HUB_ID = re.compile(r"^(?P<id>(?P<owner>\w[\w.-]*/)?\w[\w.-]*)(@(?P<revision>[\w.-]+))?$")  # old models have no owner


class DataSpec(Spec):
    """The sources of rows. A source is a file or URL of JSON Lines, CSV or Parquet (plain, .gz, .bz2 or .xz), a folder
    of such files, a Hub id `owner/name` (optionally `@revision`), or `embedded:shop`, generated messages of a shop's
    customers."""

    _label_is_text: bool = PrivateAttr(default=False)

    train: str = Field(
        default=EMBEDDED,
        min_length=1,
        description="source of the rows to learn from; env:NAME here and in the other sources: what that environment "
        "variable holds",
    )
    validation: str = Field(
        default=EMBEDDED, min_length=1, description="source of the rows that every choice is made on"
    )
    test: str | None = Field(
        default=EMBEDDED, min_length=1, description="source of the rows that the final evaluation alone opens, once"
    )
    unlabelled: str | None = Field(
        default=None,
        min_length=1,
        description="classify: source of texts (pairs) without labels, a Hub id's split train; students learn the "
        "teacher's outputs on them",
    )
    text: str = Field(
        default="text",
        min_length=1,
        description="column of the text, or of attributes: an object, or a list of [name, value]",
    )
    text_pair: str | None = Field(default=None, description="column of the second text, for pairs")
    label: str = Field(
        default="label",
        min_length=1,
        description="column of the class (4, 4.0 and '4.0' are one, "
        "and so are true and 'True'), or of the text to generate, which stays as it is",
    )
    slices: list[str] = Field(
        default_factory=list,
        description="columns of the test rows; the evaluation compares winner and teacher at each of their values",
    )
    chat: bool | None = Field(
        default=None,
        description="generate: whether the model's chat template words the rows, a text as what the user says; none = "
        "where data.text holds conversations, lists of {role, content} whose last answer is learned, or data.label",
    )
    style: str | None = Field(
        default=None,
        min_length=1,
        description="generate: column that says how the text of a row is written, such as 'formal'; a request may ask "
        "for one of its values",
    )
    lengths: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="generate: two numbers of words; a text of at most the first is short, of at most the second "
        "medium, else long, and a request may ask for one of these",
    )
    redact: list[RedactKind] = Field(
        default_factory=list,
        description="personal data that is replaced by its kind, such as [EMAIL], in all rows and, as the bundle says "
        "it, in what its service is asked: email, phone, card, iban, id_cn (China's identity cards), order",
    )
    order_pattern: str | None = Field(
        default=None,
        min_length=1,
        description="redact=[order]: a regular expression that finds your order numbers, such as '\\bA-\\d{8}\\b'",
    )
    max_length: int = Field(
        default=64, ge=4, le=8192, description="tokens kept of a text (prompt and completion), special tokens included"
    )
    on_leak: Literal["warn", "drop", "refuse"] = Field(
        default="warn",
        description="what happens to a text (a pair: both texts) that is in two splits; letters and digits are "
        "compared, in lower case. warn: such texts are counted in the log; drop: training and unlabelled rows with the "
        "text of a validation or test row are left out, and validation rows with the text of a test row; refuse: "
        "nothing is trained. Test rows stay as they are. A text with two labels in one split is logged and stays: only "
        "you know the right label",
    )
    max_unknown: float = Field(
        default=0.333,
        ge=0,
        le=1,
        description="share of the tokens of the training (validation) rows that may be unknown to the tokenizer of the "
        "teacher, or of student.model; more is refused, more than 0.05 is logged, 1 = nothing is refused",
    )
    max_changed: float = Field(
        default=0.333,
        ge=0,
        le=1,
        description="generate: share of the training answers that the tokenizer of the teacher may give back otherwise "
        "than they are, as it loses capitals or special tokens; more is refused, any is logged, 1 = nothing is refused",
    )
    packing: bool = Field(
        default=True,
        description="generate: texts share rows of max_length tokens, so little is padding; where the model would "
        "let one text see another, which is measured before training, each has a row of its own, and that is said",
    )

    @property
    def redaction(self) -> Redaction | None:
        """What is replaced, as bundles say it."""
        return Redaction(kinds=sorted(self.redact), order_pattern=self.order_pattern) if self.redact else None

    @property
    def label_is_text(self) -> bool:
        """Whether the label is a text to generate, and no class."""
        return self._label_is_text

    def of_task(self, labelled: bool) -> None:
        """Note whether an answer of the recipe's task is a label: a recipe does so when it is read."""
        self._label_is_text = not labelled

    @field_validator("lengths")
    @classmethod
    def lengths_rise(cls, lengths: list[int]) -> list[int]:
        if lengths and (len(lengths) != 2 or lengths[0] >= lengths[1]):
            raise ValueError(f"{lengths}: two numbers of words are needed, the smaller one first, such as [15, 30]")
        return lengths

    @model_validator(mode="after")
    def orders_have_a_pattern(self) -> Self:
        if twice := next((kind for kind in self.redact if self.redact.count(kind) > 1), None):
            raise ValueError(f"redact: {twice!r} is given twice")
        if "order" in self.redact and self.order_pattern is None:
            raise ValueError("redact: 'order': only you know your order numbers; give data.order_pattern")
        if self.order_pattern is None:
            return self
        if "order" not in self.redact:
            raise ValueError(
                f"order_pattern: {self.order_pattern!r}: data.redact has no order; add it, or leave it out"
            )
        try:
            found = re.compile(self.order_pattern)
        except re.error as error:
            raise ValueError(f"order_pattern: {self.order_pattern!r}: no regular expression: {error}") from None
        if found.match(""):
            raise ValueError(f"order_pattern: {self.order_pattern!r}: also finds nothing at all; let it need a digit")
        return self

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


class PoolSpec(Spec):
    """Rows made out of the training and unlabelled rows; the teacher's outputs are their only targets.

    A student that learns for long needs more than a few fixed targets (Beyer et al. 2021, arXiv 2106.05237; for texts
    Tang et al. 2019, arXiv 1903.12136). One operation, drawn by the shares, makes a row. Where a script has no spaces
    between words, characters are what is dropped, masked and swapped.
    """

    rows: int = Field(
        default=0, ge=0, description="classify: rows to make, 0 = none; an epoch of a student passes over all of them"
    )
    drop_words: float = Field(default=1.0, ge=0, description="share of rows that lack some of their words")
    mask_words: float = Field(default=1.0, ge=0, description="share of rows with masks in place of some words")
    swap_words: float = Field(default=1.0, ge=0, description="share of rows with neighbouring words swapped")
    mix_rows: float = Field(
        default=1.0,
        ge=0,
        description="share of rows that begin as one row and end as another; a pair takes a text of each",
    )
    drop_fields: float = Field(
        default=1.0, ge=0, description="share, among attributes, of rows that lack some of their fields"
    )
    changed: float = Field(
        default=0.2, gt=0, lt=1, description="share of a row's words (fields) dropped, masked or swapped; one at least"
    )

    @model_validator(mode="after")
    def what_is_asked_for_makes_rows(self) -> Self:
        shares = self.shares
        if not any(shares.values()):
            raise ValueError(f"{', '.join(shares)} are all 0: nothing makes a row; raise one of them")
        changed = self.model_dump(exclude_defaults=True)
        if changed and not self.rows:
            name, value = next(iter(changed.items()))
            raise ValueError(f"{name}={value:g} changes nothing where rows=0 makes none; give rows, or leave it out")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Shares by the name of the operation; they need not add up to 1."""
        return self.model_dump(exclude={"rows", "changed"})
