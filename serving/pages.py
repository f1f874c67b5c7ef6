"""What people open in a browser: a page that asks the services, one that documents them, and their OpenAPI.

    GET /, /docs          one file each, without anything from elsewhere; their policy lets them ask this server alone
    GET /openapi.json     see `serving.openapi`

A page is a frame of HTML in the folder `browser/`, its script, and what both share.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response

from serving.openapi import document
from serving.service import to_json

FOLDER = Path(__file__).parent / "browser"
PAGES = {"/": "ask", "/docs": "docs"}
READ = ["GET", "HEAD"]


class Page(NamedTuple):
    """A page, and the headers that it is sent with."""

    html: str
    headers: dict[str, str]


def add_pages(app: FastAPI, models: Callable[[Request], list[dict[str, Any]]]) -> None:
    """Answer for the pages; `models` gives what GET /v1/models lists. Raises `Refused` where nothing answers yet."""

    async def openapi(request: Request) -> Response:
        listed = to_json(models(request))
        return Response(await asyncio.to_thread(_openapi, listed), media_type="application/json")

    app.add_api_route("/openapi.json", openapi, methods=READ)
    for path, name in PAGES.items():
        app.add_api_route(path, _answer(name), methods=READ)


def _answer(name: str) -> Callable[[], Any]:
    async def answer() -> Response:
        made = page(name)
        return Response(made.html, headers=made.headers, media_type="text/html")

    return answer


@cache
def page(name: str) -> Page:
    """The page of this name, with a policy that knows its own style and script by their digests."""
    style, shared, script, html = (
        (FOLDER / file).read_text(encoding="utf-8") for file in ("page.css", "page.js", f"{name}.js", f"{name}.html")
    )
    script = f"{shared}\n{script}"
    policy = {
        "default-src": "'none'",
        "script-src": _digest(script),
        "style-src": _digest(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {source}" for name, source in policy.items()),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(html.replace("/* style */", style).replace("/* script */", script), headers)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@lru_cache(maxsize=8)
def _openapi(listed: bytes) -> bytes:
    return to_json(document(json.loads(listed)))
