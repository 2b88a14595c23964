"""What happens to every request: the token, the time, and the counts."""

from __future__ import annotations

import hmac
import time
from typing import Any

import anyio
from pydantic_core import to_json

from recbole_vae.server.metrics import Metrics
from recbole_vae.server.settings import Settings

_OPEN = {"/health", "/ready", "/docs", "/openapi.json", "other"}
"""Paths that need no token. ``other`` is the page's style and script, and paths that do not exist."""

_PATHS = _OPEN | {"/recommend", "/explain", "/model", "/metrics"}
SIMILAR = "/items/{item}/similar"


def _path(path: str) -> str:
    """Return the name of a path in the metrics, of which there are only so many."""
    if path in _PATHS:
        return path
    return SIMILAR if path.startswith("/items/") else "other"


class Guard:
    """The outermost part of the application.

    Args:
        app: the rest of it.
        settings: have the token and the time limit.
        metrics: count the requests.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self.app, self.metrics, self.seconds = app, metrics, settings.limits.seconds
        self.token = None if settings.token is None else settings.token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path, status = time.perf_counter(), _path(scope["path"]), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self.token is not None and path not in _OPEN and not self._has_token(scope["headers"]):
                await refuse(sending, 401, "a token is needed: send the header Authorization: Bearer TOKEN.")
                return
            with anyio.move_on_after(self.seconds) as limit:
                await self.app(scope, receive, sending)
            if limit.cancelled_caught and not status:
                await refuse(sending, 503, f"not done within {self.seconds:g} s.")
        finally:
            self.metrics.request(path, status or 500, time.perf_counter() - start)

    def _has_token(self, headers: list[tuple[bytes, bytes]]) -> bool:
        assert self.token is not None
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self.token)


async def refuse(send: Any, status: int, detail: str) -> None:
    """Send a refusal, in the form of all others."""
    body = to_json({"detail": detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
