"""Section `checks` of a recipe: what a written text must hold before it goes out."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from configs.loader import Spec


class ChecksSpec(Spec):
    """What is asked of every text that a decoder writes. A text that fails is written again or held back.

    What counts as usual is learned from the training answers and stands in the bundle.
    """

    enabled: bool = Field(default=False, description="every text is checked before it goes out")
    said: bool = Field(
        default=True, description="every value is said of those attributes whose values training answers say"
    )
    given: bool = Field(
        default=True,
        description="no number, unit, name or value of an attribute is said that neither the request gives nor "
        "training answers say of their own accord",
    )
    spelled: bool = Field(
        default=True,
        description="values with capital letters are written as they were given, where training answers do so",
    )
    brands: list[str] = Field(default_factory=list, description="names that are written exactly so")
    blocked: list[str] = Field(default_factory=list, description="words, or words in a row, that are never said")
    max_repeated: float | None = Field(
        default=None, ge=0, le=1, description="share of three words in a row that stood before; none = as in training"
    )
    min_words: int | None = Field(
        default=None, ge=0, description="words, or characters of scripts; none = as in training"
    )
    max_words: int | None = Field(
        default=None, ge=1, description="words, or characters of scripts; none = as in training"
    )
    candidates: int = Field(
        default=4, ge=1, le=16, description="texts that are written where the first one fails; 1 = it is held back"
    )

    @model_validator(mode="after")
    def lengths_leave_room(self) -> Self:
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError(f"min_words={self.min_words}: above max_words={self.max_words}; no text could have both")
        return self

    @model_validator(mode="after")
    def nothing_is_asked_in_vain(self) -> Self:
        if not self.enabled and (changed := self.model_dump(exclude_defaults=True)):
            name = next(iter(changed))
            raise ValueError(f"{name}: enabled=false: nothing is checked; set enabled=true, or leave it out")
        return self

    @model_validator(mode="after")
    def words_are_not_empty(self) -> Self:
        for name in ("brands", "blocked"):
            if any(not each.strip() for each in getattr(self, name)):
                raise ValueError(f"{name}: '': an empty word stands in every text; leave it out")
        return self
