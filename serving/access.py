"""The layer around an application that asks who a client is, by an API key.

`Authorization: Bearer <key>`, as OpenAI's clients send it, or `X-API-Key: <key>`, which counts where both are there:
a platform may use the other one for itself. No key, or one that does not hold, is answered 401, a service that the key
may not ask 403, and a request over its limits 429 (`serving.admission`), in the form of the route.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.admission import Keys
from serving.failures import failure, request_name
from serving.service import Refused

PAGES = frozenset({"/", "/docs", "/openapi.json"})  # read without a key, they show no service; with one, its services
OPEN = frozenset({"/healthz"})  # a platform's own token may stand where a key would
READS = ("GET", "HEAD")
MAY_ASK = "may_ask"  # in the state of a request, which no client can write


def may_ask(scope: Scope, service: str) -> bool:
    """Whether who sent the request may ask the service; everybody may where no keys are asked for."""
    asked: Callable[[str], bool] | None = scope.get("state", {}).get(MAY_ASK)
    return asked is None or asked(service)


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
