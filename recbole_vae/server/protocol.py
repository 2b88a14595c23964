"""HTTP as uvicorn speaks it, with an end to headers and to waiting: it would keep whatever a caller sends, however slowly.

Both limits hold before any token is checked.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST = 64 * 1024
"""Bytes of the first line and the headers of a request, and of what else is no part of a body."""


class Protocol(HttpToolsProtocol):
    """A connection. One that sends more headers than is allowed gets the status 431, and is closed.

    One whose request is not there in time is closed, too. It has as long as a request may take when the server ends, which is
    more than the application gives a body: that is answered first.
    """

    _unread = 0
    _late: asyncio.TimerHandle | None = None

    def _wait(self) -> None:
        self._end_wait()
        self._late = self.loop.call_later(self.config.timeout_graceful_shutdown or 0, self.timeout_keep_alive_handler)

    def _end_wait(self) -> None:
        if self._late is not None:
            self._late.cancel()

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._end_wait()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Wait for the rest of a request."""
        self._wait()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST and not self.transport.is_closing():
            body = to_json({"detail": f"the headers have more than {MOST} bytes, which is what this server allows."})
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin with the body."""
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._end_wait()
        self._unread = 0
        super().on_message_complete()
