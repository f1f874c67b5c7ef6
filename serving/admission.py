"""Which API keys hold now, for which services, and how much of their limits this process has left.

Each process that answers counts for itself: with several replicas a key may ask each of them as often as it may.
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

from configs.errors import UsageError
from configs.schema.serving import KEY_PREFIX
from serving.keys import ID_CHARACTERS, Key, hash_of, read, state_of
from serving.service import Refused

FORBIDDEN = "this API key may not ask this service"
CHALLENGE = 'Bearer realm="slimcart"'
NOBODY = hash_of(b"")  # compared with where no key has the id, so that both take the same time
ID = slice(len(KEY_PREFIX), len(KEY_PREFIX) + ID_CHARACTERS)  # of a key
MINUTE_S, DAY_S = 60.0, 86400.0

log = logging.getLogger("ray.serve")  # a replica shows no other


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
