"""`serving.yaml`: the services of a cluster, and the registered model that each of them runs."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from configs.loader import Spec
from configs.schema.search import BudgetSpec
from configs.schema.serving import ServingSpec, service_name

OF_THE_CLUSTER = ("host", "port", "keys")  # fields that all services of a cluster share

WHY_NOT = {"service": "the key above names it", "rollout": "jobs.deploy tries a model on customers"}
MODEL = re.compile(r"models:/[^/@]+(@|/)[^/@]+")


class ServiceSpec(Spec):
    """One service."""

    model: str = Field(
        description="registered model: models:/<name>@champion, another alias, or models:/<name>/<version>",
    )
    serving: ServingSpec = Field(default_factory=ServingSpec, description="how it answers, over what all have")
    budget: BudgetSpec = Field(default_factory=BudgetSpec, description="limits of a model that was no champion yet")

    @field_validator("model")
    @classmethod
    def model_is_registered(cls, model: str) -> str:
        if not MODEL.fullmatch(model):
            remedy = "give models:/<name>@champion or models:/<name>/<version>"
            raise ValueError(f"{model!r} is no registered model; {remedy}")
        return model

    @model_validator(mode="after")
    def fields_mean_something_here(self) -> Self:
        for name in (*OF_THE_CLUSTER, "service", "rollout"):
            if name in self.serving.model_fields_set:
                reason = WHY_NOT.get(name, "all services share one, at the top")
                raise ValueError(f"serving.{name}: leave it out; {reason}")
        return self


class ServicesSpec(Spec):
    """All services of a cluster."""

    serving: ServingSpec = Field(default_factory=ServingSpec, description="how services answer that say nothing else")
    services: dict[Annotated[str, AfterValidator(service_name)], ServiceSpec] = Field(
        min_length=1, description="by their names, as in POST /v1/<service>"
    )
    remove: bool = Field(default=False, description="also take services away that are not listed")

    @model_validator(mode="after")
    def each_service_is_sound(self) -> Self:
        for name in ("service", "rollout"):
            if name in self.serving.model_fields_set:
                raise ValueError(f"serving.{name}: leave it out; it is of one service alone")
        for service in self.services:
            try:
                self.serving_of(service)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"services.{service}.serving, over serving: {reason}") from None
        return self

    def serving_of(self, service: str) -> ServingSpec:
        """How a service answers: what it says itself over what all have. Raises `ValueError`."""
        common, own = (each.model_dump(exclude_unset=True) for each in (self.serving, self.services[service].serving))
        if own.get("replicas") is not None:
            common.pop("autoscaling", None)
        if own.get("autoscaling") is not None:
            common.pop("replicas", None)
        return ServingSpec.model_validate({**common, **own, "service": service})
