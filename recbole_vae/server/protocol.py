"""HTTP as uvicorn speaks it, with an end to headers: it would keep whatever a caller sends, before any token is checked."""

from __future__ import annotations

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST = 64 * 1024
"""Bytes of the first line and the headers of a request, and of what else is no part of a body."""


class Protocol(HttpToolsProtocol):
    """A connection. One that sends more headers than is allowed gets the status 431, and is closed."""

    _unread = 0

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
        self._unread = 0
        super().on_message_complete()
