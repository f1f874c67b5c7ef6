"""A client of MLflow that gives up after seconds, and requests that are repeated while the server is away."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from cluster import session
from configs.shown_urls import shown_urls

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULTS = {  # MLflow's own hold a caller for about 244 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # it would repeat a creation whose answer was lost, and make two
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where the last line is a job's RESULT
}
SECONDS_BETWEEN = 1.0
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")
# What a proxy says in JSON of its own, of which MLflow's client keeps no status.
DENIED = re.compile(
    r"error code 40[13]\b|^INTERNAL_ERROR: Response: .*(unauthori[sz]ed|forbidden|not authenticated)", re.IGNORECASE
)

T = TypeVar("T")


class NotOpened(Exception):
    """MLflow has no such run yet: it was away when the run began."""


def client() -> MlflowClient:
    """A client of $MLFLOW_TRACKING_URI that asks once, for seconds, not minutes."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=session.tracking_uri())


def again(call: Callable[[], T], seconds: float) -> T:
    """Return `call()`, tried for `seconds` while MLflow does not answer; raise its last error after that."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Exception as error:
            if not may_pass(error) or is_denied(error) or time.monotonic() + SECONDS_BETWEEN > deadline:
                raise
        time.sleep(SECONDS_BETWEEN)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: MLflow was away, slow or in trouble, and refused nothing."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException

    if isinstance(error, RestException) and error.error_code in REFUSALS:
        return False
    return isinstance(error, MlflowException | RequestException | NotOpened)


def is_denied(error: BaseException) -> bool:
    """Whether MLflow, or what stands before it, does not take the credentials."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    return error.get_http_status_code() in (401, 403) or bool(DENIED.search(str(error)))


def in_a_line(error: BaseException) -> str:
    """The first line of an error, shortened, without the user in an address that MLflow's errors quote."""
    lines = shown_urls(str(error)).splitlines()
    return lines[0][:300] if lines else repr(error)
