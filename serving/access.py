"""The layer around an application that asks who a client is: an API key, its services and its limits.

`Authorization: Bearer <key>`, as OpenAI's clients send it, or `X-API-Key: <key>`, which counts where both are there:
a platform may use the other one for itself. No key, or one that does not hold, is answered 401, a service that the key
may not ask 403, and a request over its limits 429. Limits are counted in this process.
"""

from __future__ import annotations

import hmac
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from configs.errors import UsageError
from configs.schema.serving import KEY_PREFIX
from serving.failures import failure, request_name
from serving.keys import ID_CHARACTERS, Key, hash_of, read, state_of
from serving.service import Refused

FORBIDDEN = "this API key may not ask this service"
PAGES = frozenset({"/", "/docs", "/openapi.json"})  # read without a key, they show no service; with one, its services
OPEN = frozenset({"/healthz"})  # a platform's own token may stand where a key would
READS = ("GET", "HEAD")
CHALLENGE = 'Bearer realm="slimcart"'
NOBODY = hash_of(b"")  # compared with where no key has the id, so that both take the same time
ID = slice(len(KEY_PREFIX), len(KEY_PREFIX) + ID_CHARACTERS)  # of a key
MINUTE_S, DAY_S = 60.0, 86400.0
MAY_ASK = "may_ask"  # in the state of a request, which no client can write

log = logging.getLogger("ray.serve")  # a replica shows no other


def may_ask(scope: Scope, service: str) -> bool:
    """Whether who sent the request may ask the service; everybody may where no keys are asked for."""
    asked: Callable[[str], bool] | None = scope.get("state", {}).get(MAY_ASK)
    return asked is None or asked(service)


class Clock(NamedTuple):
    """Two functions, so that a test can set them."""

    seconds: Callable[[], float] = time.monotonic
    since_1970: Callable[[], float] = time.time


@dataclass
class Spent:
    """What one key has asked of this process."""

    left: float  # requests that the minute still has
    at: float  # when that was so
    day: int = -1  # days since 1970
    today: int = 0  # requests of that day

    def take(self, key: Key, clock: Clock) -> float:
        """Count one request, or leave all as it is: the seconds until there is room for it, 0 where there is.

        The minute is a bucket of `rate` requests, which fills up evenly: as many may come at once, and on average.
        """
        day, of_day = divmod(clock.since_1970(), DAY_S)
        if self.day != int(day):
            self.day, self.today = int(day), 0
        if key.daily is not None and self.today >= key.daily:
            return DAY_S - of_day
        if key.rate is not None:
            now = clock.seconds()
            left = min(key.rate, self.left + (now - self.at) * key.rate / MINUTE_S)
            if left < 1:
                return (1 - left) * MINUTE_S / key.rate
            self.left, self.at = left - 1, now
        self.today += 1
        return 0.0


class Keys:
    """The keys of a file as it is now: it is read again as soon as it changes.

    Where it cannot be read, the keys that were read last stay, at first none, and the log says so in one line.
    """

    def __init__(self, path: Path, clock: Clock = Clock()) -> None:  # noqa: B008 - it is immutable
        self.path, self._clock = path, clock
        self._state: object = None
        self._known: dict[bytes, Key] = {}
        self._spent: dict[str, Spent] = {}
        self._refresh()

    def admit(self, given: bytes | None, service: str | None) -> Key:
        """The key that a client has `given`, if it may ask the service, or anything where None; counts the request.

        Raises `Refused`.
        """
        if given is None:
            needed = "an API key is needed here: send it as Authorization: Bearer <key>, or X-API-Key: <key>"
            raise Refused(401, needed, headers={"WWW-Authenticate": CHALLENGE})
        self._refresh()
        key = self._known.get(given[ID])
        is_it = hmac.compare_digest(hash_of(given), key.hash if key else NOBODY)
        if key is None or not is_it or key.state(datetime.now(UTC)) != "valid":
            refused = {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'}
            raise Refused(401, "this API key does not hold here: it is unknown, revoked or expired", headers=refused)
        if service is not None and not key.may_ask(service):
            raise Refused(403, FORBIDDEN)
        spent = self._spent.setdefault(key.id, Spent(float(key.rate or 0), self._clock.seconds()))
        if wait := spent.take(key, self._clock):
            seconds = str(math.ceil(wait))
            detail = f"this API key has asked as often as it may; ask again in {seconds} s"
            raise Refused(429, detail, headers={"Retry-After": seconds})
        return key

    def _refresh(self) -> None:
        try:
            state = state_of(os.stat(self.path))
        except OSError as error:
            state = error.errno
        if state == self._state:
            return
        self._state = state
        try:
            found = read(self.path)
        except UsageError as error:
            log.error("%s; keys that were read before still hold: %d", error, len(self._known))
            return
        self._state = found.state  # of what was read, should it have changed since
        self._known = {each.id.encode(): each for each in found.keys}
        self._spent = {each.id: self._spent[each.id] for each in found.keys if each.id in self._spent}


class Gate:
    """An ASGI application that asks for a key and then hands the request on."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Callable[[], Keys | None],
        service_of: Callable[[str], str | None] = lambda _: None,
        is_open: Callable[[str], bool] = OPEN.__contains__,
    ) -> None:
        """`keys`: those that hold now, None where none are asked for.

        `service_of`: the service that a path asks. Where it says None and a body names one, the application asks
        `may_ask`. `is_open`: whether a path is read without a look at the key, as health is. There, and on a page
        without a key, `may_ask` is false of every service.
        """
        self._app, self._keys, self._service_of, self._is_open = app, keys, service_of, is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (keys := self._keys()) is None:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            asked = self._ask(keys, scope)
        except Refused as refused:
            await _refuse(refused, scope, receive, send)
            return
        scope = {**scope, "state": {**scope.get("state", {}), MAY_ASK: asked}}
        await self._app(scope, receive, send)

    def _ask(self, keys: Keys, scope: Scope) -> Callable[[str], bool]:
        """What services the client may ask. Raises `Refused`."""
        path, given = scope["path"], _given(scope)
        if scope["method"] in READS and (self._is_open(path) or (path in PAGES and given is None)):
            return lambda _: False
        return keys.admit(given, self._service_of(path)).may_ask


def _given(scope: Scope) -> bytes | None:
    """The key in the headers; no key at all where a header stands twice."""
    found = [value for name, value in scope["headers"] if name == b"x-api-key"]
    if not found:
        for value in (value for name, value in scope["headers"] if name == b"authorization"):
            scheme, _, given = value.partition(b" ")
            found.append(given.strip() if scheme.lower() == b"bearer" else b"")
    return found[0] or None if len(found) == 1 else None


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    request_id, named = request_name(scope)
    headers = {**(refused.headers or {}), **({} if named else {"X-Request-ID": request_id})}
    answer = failure(scope["path"], refused.status_code, refused.detail, headers, request_id, refused.field)
    await answer(scope, receive, send)
