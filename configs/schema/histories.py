"""How a file holds what customers did, and what of it is kept back to be asked."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.loader import Spec


class ColumnsSpec(Spec):
    """Columns of histories. All but the items may be missing; one that is named here may not."""

    group: str | None = Field(
        default=None,
        min_length=1,
        description="column of the customer in a file of single events, whose rows are put together by it; none = each "
        "row is the whole history of a customer, its columns hold lists",
    )
    items: str | None = Field(
        default=None, min_length=1, description="column of the items' ids; none = items, of single events item"
    )
    times: str | None = Field(
        default=None, min_length=1, description="column of the times; none = times, of single events time"
    )
    baskets: str | None = Field(
        default=None,
        min_length=1,
        description="column of what belongs to one order, such as its number; none = baskets, of single events basket; "
        "where there is none, what has the same time is one basket",
    )
    events: str | None = Field(
        default=None,
        min_length=1,
        description="column that says what was done with an item: view, cart or buy; none = events, of single events "
        "event; where there is none, everything was bought",
    )
    quantities: str | None = Field(
        default=None, min_length=1, description="column of the pieces; none = quantities, of single events quantity"
    )
    prices: str | None = Field(
        default=None, min_length=1, description="column of the prices; none = prices, of single events price"
    )

    @property
    def single(self) -> bool:
        """Whether a row is one event."""
        return self.group is not None

    def column(self, field: str) -> str:
        """The column of a field of histories, such as 'times'."""
        return getattr(self, field) or (SINGULAR[field] if self.single else field)

    @model_validator(mode="after")
    def no_column_holds_two_things(self) -> Self:
        columns = [*map(self.column, SINGULAR), *([self.group] if self.group else [])]
        if twice := next((column for column in columns if columns.count(column) > 1), None):
            raise ValueError(f"{twice!r} is the column of two things; give each its own")
        return self


class HistorySplitSpec(Spec):
    """What is kept back of each history. A customer's future never trains."""

    by: Literal["last", "date"] = Field(
        default="last",
        description="last: of each customer, the last to be asked as a test and the one before as validation; date: "
        "what every customer did next from a day on",
    )
    last: Literal["basket", "event"] = Field(
        default="basket",
        description="by=last: what is kept back, a whole basket, or one event, of whose basket others may be known",
    )
    validation_from: date | None = Field(default=None, description="by=date: first day of the validation questions")
    test_from: date | None = Field(default=None, description="by=date: first day of the test questions")

    @model_validator(mode="after")
    def days_belong_to_a_split_by_date(self) -> Self:
        days = {"validation_from": self.validation_from, "test_from": self.test_from}
        if self.by == "last":
            if given := [f"{name}={day}" for name, day in days.items() if day]:
                raise ValueError(f"{given[0]} is not used where by=last; give by=date, or leave it out")
            return self
        if "last" in self.model_fields_set:
            raise ValueError(f"last={self.last} is not used where by=date; leave it out, or give by=last")
        if self.validation_from is None or self.test_from is None:
            raise ValueError("by=date needs validation_from and test_from, such as 2026-10-01 and 2026-11-01")
        if self.validation_from >= self.test_from:
            raise ValueError(f"validation_from={self.validation_from} is not before test_from={self.test_from}")
        return self


SINGULAR = {
    "items": "item",
    "times": "time",
    "baskets": "basket",
    "events": "event",
    "quantities": "quantity",
    "prices": "price",
}
