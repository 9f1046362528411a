"""What a request must be before anything looks at it: of this machine, of this page, and small.

The page is bound to 127.0.0.1, but so is every page that a browser on this machine shows: other sites may send requests
here, and a name of theirs may resolve to this address. So a request must name this host, carry the token that only the
printed address holds, and, where the browser tells its origin, come from this page.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LIMIT = 2_000_000  # bytes of a request
HEADERS = [
    (b"content-security-policy",
     b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]  # fmt: skip


class Guard:
    """Refuses what is not a request of the page, as ASGI middleware.

    Args:
        inner: the application.
        token: the first part of every path.
        hosts: what the header Host may be.
    """

    def __init__(self, inner: Any, token: str, hosts: tuple[str, ...]) -> None:
        self.inner, self.token, self.hosts = inner, token, hosts
        self.origins = tuple(f"http://{host}" for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        refused = self.refusal(scope)
        if refused is not None:
            await _say(send, *refused)
            return
        body = await _body(receive)
        if body is None:
            await _say(send, 413, f"a request may have {LIMIT:,} bytes at most")
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> MutableMapping[str, Any]:
            return waiting.pop() if waiting else await receive()

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        inside = scope["path"].removeprefix(f"/{self.token}")
        await self.inner({**scope, "path": inside, "raw_path": inside.encode()}, again, with_headers)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is refused, status and words; None where it may pass."""
        if scope["type"] != "http":
            return 403, "only HTTP is spoken here"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get("host", "") not in self.hosts:
            return 403, "this server answers to its own address only"
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(first.encode(), self.token.encode()):
            return 403, "open the address that `phlogiston explore` printed: it carries the token that is missing here"
        if headers.get("origin", self.origins[0]) not in self.origins:
            return 403, "requests of other pages are refused"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests of other pages are refused"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > LIMIT:
            return 413, f"a request may have {LIMIT:,} bytes at most"
        return None


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is too long, or the client has gone."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > LIMIT:
            return None
    return b"".join(parts)


async def _say(send: Send, status: int, words: str) -> None:
    """Answer with one line of text."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *HEADERS]})
    await send({"type": "http.response.body", "body": f"phlogiston: {words}\n".encode()})
