"""Why a request is refused."""

from __future__ import annotations

from typing import Any


class RefusedError(Exception):
    """A request gets no result.

    Attributes:
        status: of HTTP.
        detail: what was wrong, what is allowed, and what to do.
        more: further fields of the answer.
    """

    def __init__(self, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, " ".join(detail.split()), more
