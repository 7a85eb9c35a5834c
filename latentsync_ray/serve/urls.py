"""URLs that this server hands out, and which of those that come in are its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

from latentsync_ray.serve.protocol import APP
from latentsync_ray.serve.tables import FileRow

__all__ = ["TOKEN_SCHEME", "base_url", "localise", "media_url", "queue_urls"]

TOKEN_SCHEME = "token:"
"""How a file of this server is named in a request's arguments; no client can send it, since the scheme is not fetched."""
_CDN = "https://v3.fal.media"


def media_url(base: str, file: FileRow) -> str:
    """Where a file is read."""
    return f"{base}/files/{file.token}/{quote(file.name)}"


def queue_urls(base: str, request_id: str) -> dict[str, str]:
    """The three URLs of a request. No query strings: clients replace them."""
    own = f"{base}/queue/{APP}/requests/{request_id}"
    return {"response_url": own, "status_url": f"{own}/status", "cancel_url": f"{own}/cancel"}


def localise(url: str, bases: Iterable[str]) -> str:
    """``url``, or the token of the file when it is one of this server's."""
    if url.startswith("data:"):
        return url  # whole files, which urlsplit would remember
    match = re.fullmatch(r"(?:/cdn)?/files/([A-Za-z0-9_-]{32})/[^/]*|/(demo/[a-z0-9.]+)", urlsplit(url).path)
    if match and any(url.startswith(f"{base}/") for base in (*bases, _CDN)):
        return TOKEN_SCHEME + (match[1] or match[2])
    return url


def base_url(configured: str, scheme: str, headers: Mapping[str, str]) -> str:
    """How a client reaches this server: as configured, or by what it and its proxies say."""
    if configured:
        return configured
    proto = headers.get("x-forwarded-proto", scheme).partition(",")[0].strip()
    host = headers.get("x-forwarded-host", headers.get("host", "localhost")).partition(",")[0].strip()
    return f"{'https' if proto == 'https' else 'http'}://{host}"
