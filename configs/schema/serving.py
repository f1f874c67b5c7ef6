"""The `serving` section of a recipe: pydantic only, so that `--help` and a refusal stay fast."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.loader import Spec

SERVICE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
Objection = Literal["outside", "untested", "worse", "labels", "name"]  # reasons against a deployment
# GET /v1/models, OpenAI's routes, and the application that answers them
RESERVED_NAMES = frozenset({"models", "completions", "chat", "embeddings", "catalogue", "docs"})

KEY_PREFIX = "sc_"  # of an API key, which tools that look for secrets know by it and by its form
KEY = re.compile(KEY_PREFIX + r"[0-9a-f]{12}_\w*")  # the id, then the secret


class RolloutSpec(Spec):
    """How a new model takes over from the one that answers: tried on customers first, and sent back where it is worse.

    Both are in the same replicas, so no request takes a hop more.
    """

    canary: float | None = Field(
        default=None, gt=0, lt=100, description="per cent of the requests that the candidate answers meanwhile"
    )
    shadow: bool = Field(
        default=False, description="ask the candidate after the champion's answer went out, and compare; nobody sees it"
    )
    sticky: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="header whose value decides who answers: a customer stays with one model; none = each request is "
        "drawn by itself",
    )
    requests: int = Field(
        default=500, ge=1, description="requests that the candidate has to answer; where min_agreement is set, compare"
    )
    max_error_rate: float = Field(
        default=0.0, ge=0, le=1, description="share of these that may fail; the champion answers in their place"
    )
    max_served_p95_ms: float | None = Field(
        default=None, gt=0, description="95 % of the candidate's answers take less, in the replica"
    )
    min_agreement: float | None = Field(
        default=None, ge=0, le=1, description="least share of inputs that both answer alike, scores aside"
    )
    max_seconds: float = Field(
        default=3600, gt=0, description="time for all of it; then the champion answers alone again"
    )

    @model_validator(mode="after")
    def candidates_answer_or_are_compared(self) -> Self:
        if self.shadow == (self.canary is not None):
            raise ValueError("give either canary=<per cent of the requests>, or shadow=true")
        if self.shadow and self.sticky is not None:
            raise ValueError(f"sticky={self.sticky!r} means nothing with shadow=true: the champion answers everybody")
        return self


class AutoscalingSpec(Spec):
    """How many replicas a service has, by the requests that it works on."""

    min: int = Field(default=1, ge=0, description="least replicas; 0 = none while nobody asks, and the first waits")
    max: int = Field(default=4, ge=1, description="most replicas")
    target_ongoing: float = Field(
        default=8, gt=0, description="requests at a time that a replica should have, over the last 30 s"
    )
    upscale_delay_s: float = Field(default=10, ge=0, description="seconds of more than that, until a replica comes")
    downscale_delay_s: float = Field(default=300, ge=0, description="seconds of less, until one goes")

    @model_validator(mode="after")
    def there_is_room(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min={self.min} is more than max={self.max}")
        return self


class ServingSpec(Spec):
    """How one service answers HTTP requests."""

    service: str | None = Field(default=None, description="name in POST /v1/<service>; none = the recipe's name")
    host: str = Field(default="127.0.0.1", description="loopback address that Serve listens on")
    keys: str | None = Field(
        default=None,
        min_length=1,
        description="file of API keys, under $SLIMCART_HOME, of python -m serving.keys; none = no key is asked for",
    )
    port: int = Field(default=8000, ge=1, le=65535, description="TCP port, one for all services of a cluster")
    replicas: int = Field(default=1, ge=1, description="processes that hold the model")
    autoscaling: AutoscalingSpec | None = Field(
        default=None, description="in place of replicas: as many as requests ask for; none = always so many"
    )
    threads: int = Field(default=1, ge=1, description="threads of a replica's matrix products")
    cpus_per_replica: float = Field(
        default=0, ge=0, description="CPUs reserved in Ray; 0 = share the machine with training"
    )
    max_batch_size: int = Field(
        default=32,
        ge=1,
        description="inputs of several requests that are answered together, texts that are written together",
    )
    batch_wait_ms: float = Field(
        default=0, ge=0, le=1000, description="ms to wait for more inputs; 0 = take what came during the last batch"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens that a decoder may write for one input; none = what it holds beside the prompt",
    )
    round_tokens: int = Field(
        default=16, ge=1, description="tokens of each text that a decoder writes before those who wait may join"
    )
    max_waiting_texts: int = Field(
        default=256, ge=1, description="texts that wait for a replica's decoder; a request of more is answered 429"
    )
    max_ongoing_requests: int = Field(default=128, ge=1, description="requests inside a replica at a time")
    max_queued_requests: int = Field(
        default=256, ge=1, description="requests waiting for a replica; more are answered 429"
    )
    request_timeout_s: float = Field(default=10, gt=0, description="seconds until a request is given up, answered 504")
    graceful_shutdown_timeout_s: float = Field(
        default=20, ge=0, description="seconds a leaving replica may finish requests"
    )
    max_body_bytes: int = Field(default=65536, ge=1024, description="bytes of a request body; more are answered 413")
    max_inputs: int = Field(default=256, ge=1, description="inputs of one request; more are answered 422")
    accept: list[Objection] = Field(
        default_factory=list,
        description="objections that deploy records and ignores: outside = test rows are outside the budget; untested "
        "= no test rows were measured; worse = worse than the champion on the same test rows; labels, name = other "
        "than the running service's",
    )

    rollout: RolloutSpec | None = Field(
        default=None, description="deploy: how a new model takes over; none = as soon as it answers"
    )

    @field_validator("service")
    @classmethod
    def service_fits_a_path(cls, service: str | None) -> str | None:
        if service is not None:
            service_name(service)
        return service

    @field_validator("host")
    @classmethod
    def host_is_loopback(cls, host: str) -> str:
        if not is_loopback(host):
            raise ValueError(
                f"{host!r} is not a loopback address; Serve has no TLS, and ports that pass by its limits, whatever "
                "serving.keys says, so keep 127.0.0.1 and put a reverse proxy in front of it"
            )
        return host

    @field_validator("keys")
    @classmethod
    def keys_are_a_file(cls, keys: str | None) -> str | None:
        if keys is not None and KEY.search(keys):
            raise ValueError("this is a key, which no recipe may hold; give the file that python -m serving.keys made")
        return keys

    @model_validator(mode="after")
    def replicas_are_as_many_as_can_be(self) -> Self:
        if (scaling := self.autoscaling) is None:
            return self
        if "replicas" in self.model_fields_set and self.replicas != 1:
            raise ValueError(f"replicas={self.replicas} means nothing with autoscaling; give autoscaling.min and max")
        if scaling.target_ongoing > self.max_ongoing_requests:
            raise ValueError(
                f"autoscaling.target_ongoing={scaling.target_ongoing:g} is more than "
                f"max_ongoing_requests={self.max_ongoing_requests}, which a replica never exceeds, so none would come"
            )
        return self

    @model_validator(mode="after")
    def a_batch_can_fill(self) -> Self:
        if self.max_ongoing_requests < self.max_batch_size:
            raise ValueError(
                f"max_ongoing_requests={self.max_ongoing_requests} is less than "
                f"max_batch_size={self.max_batch_size}, so a batch never fills; raise it to {self.max_batch_size}"
            )
        return self


def service_name(name: str) -> str:
    """`name` if it can stand in `/v1/<service>`; raises `ValueError` that says what would work."""
    if not SERVICE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no service name; use a-z, 0-9, - and _, at most 63, such as 'intent'")
    if name in RESERVED_NAMES:
        raise ValueError(f"{name!r} is taken by a route of all services; choose another service name")
    return name


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can ask at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
