"""One server in place of fal's four hosts, and the proxy route of its browser client.

Run, queue, rest and CDN are told apart by a path prefix, by the host for clients that keep fal's names (their traffic is
redirected here), or by the address that a browser client asked the proxy route to pass on. All three become one path.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

__all__ = ["PROXY", "HostRouting", "path_of_host"]

PROXY = "/api/fal/proxy"
_HOSTS = {
    "fal.run": "",
    "falrun.com": "",
    "queue.fal.run": "/queue",
    "queue.falrun.com": "/queue",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
    "v3.fal.media": "/cdn",
}
_OWN = re.compile(r"/(queue|rest|cdn|files|uploads|demo)(/|$)")
"""Paths that say where they belong, whatever the host."""


class HostRouting:
    """ASGI middleware that turns a request to any of the four hosts into one for this server's routes."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, path, query = headers.get(b"host", ""), scope["path"], scope["query_string"]
        if path == PROXY and scope["method"] != "OPTIONS":
            try:
                target = urlsplit(headers.get(b"x-fal-target-url", ""))
            except ValueError:
                target = urlsplit("")
            host, path, query = target.netloc, target.path, target.query.encode()
            if target.scheme != "https" or host not in _HOSTS or host == "v3.fal.media":
                refusal = JSONResponse({"detail": "x-fal-target-url must name fal.run, queue.fal.run or rest.fal.ai"}, 400)
                await refusal(scope, receive, send)
                return
            scope = {**scope, "proxied": True}
        path = path_of_host(host, path)
        await self._app({**scope, "path": path, "raw_path": path.encode(), "query_string": query}, receive, send)


def path_of_host(host: str, path: str) -> str:
    """The path on this server of what a client asks ``host`` for."""
    prefix = _HOSTS.get(host.partition(":")[0].lower(), "")
    if not prefix or (_OWN.match(path) and not (prefix == "/cdn" and path.startswith("/files/upload"))):
        return path
    return prefix + path
