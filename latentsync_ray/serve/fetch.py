"""Fetching what strangers point at, without becoming their way into this network.

Only http(s) and ``data:``. A name is resolved once, all of its addresses are checked, and the checked one is dialled: a DNS
server that changes its mind in between gains nothing. Each redirect is checked as the first URL was. Size, silence and time are
bounded while streaming, headers included.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import string
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

import httpcore2

from latentsync_ray import __version__, redact
from latentsync_ray.disk import full, is_full
from latentsync_ray.errors import StorageUnavailable
from latentsync_ray.serve.settings import Network

__all__ = ["FetchError", "Guard", "fetch", "is_public", "post", "usable_url"]

_BLOCK = 1 << 16
_LONGEST_URL = 8192
_REDIRECTS = {301, 302, 303, 307, 308}
_INTERNAL = (ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32"))
"""What Python calls global and is not: protocol assignments, where Oracle's metadata lies (RFC 6890), and Azure's host."""
_EMBEDDED = ((ip_network("64:ff9b::/96"), 0), (ip_network("2002::/16"), 80))
"""IPv6 networks whose addresses stand for an IPv4 one (NAT64, RFC 6052; 6to4, RFC 3056), and by how many bits it is shifted."""


class FetchError(Exception):
    """It could not be fetched, or must not be; the message may be shown to whoever asked."""

    def __init__(self, message: str) -> None:
        super().__init__(redact.text(message))


def usable_url(url: str) -> str:
    """Why ``url`` is none that is ever fetched; empty when it may be tried."""
    if url.startswith("data:"):  # never taken apart by urlsplit, which remembers what it is given
        if url.startswith("data://"):
            return "a data: URI has no host; write data:TYPE;base64,CONTENT (RFC 2397)"
        if not url.isascii():
            return "a data: URI is ASCII; percent-encode the rest, or use base64"
        return "" if "," in url else "a data: URI needs a comma before its content (RFC 2397)"
    if len(url) > _LONGEST_URL:
        return f"a URL of {len(url)} characters is not fetched; at most {_LONGEST_URL} (inline content begins with data:)"
    if re.search(r"[\x00-\x20\\\x7f\ud800-\udfff]", url):  # before it is taken apart, which drops some of these
        return "not a URL: it holds a space, backslash or control character; percent-encode it"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"not a URL: {redact.text(str(error), url)[:100]}"
    if not parts.scheme:
        return "not a URL: it has no scheme"
    if parts.scheme not in ("http", "https"):
        return f"the scheme {url.partition(':')[0][:20]!r} is not fetched; use http, https or data"
    if not parts.hostname:
        return "not a URL: it has no host"
    if parts.username is not None or parts.password is not None:
        return "names and passwords in URLs are not used; sign the URL instead"
    if not parts.hostname.isascii():
        return "the host holds letters beyond ASCII; write it in Punycode (xn--...)"
    return ""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the open internet, and not one that another address hides in."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo:
            return False
        for network, shift in _EMBEDDED:
            if address in network:
                inner = IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if int(address) >> 32 == 0 or address not in ip_network("2000::/3"):
            return False
    if any(address in network for network in _INTERNAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Guard(httpcore2.NetworkBackend):
    """Dials only what ``network`` allows, and lets no connection outlive ``deadline`` (``time.monotonic``)."""

    def __init__(self, network: Network, deadline: float) -> None:
        self._network, self._deadline = network, deadline
        self._allowed = [ip_network(each, strict=False) for each in network.allow]
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        addresses = self.check(host, port)
        for address in addresses:
            try:
                left = _left(self._deadline, self._network.connect_seconds)
                stream = self._backend.connect_tcp(str(address), port, timeout=left, socket_options=socket_options)
                return _Bounded(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise AssertionError("a name has at least one address")

    def check(self, host: str, port: int) -> list[IPv4Address | IPv6Address]:
        """The addresses of ``host``, all of them allowed; raises FetchError otherwise."""
        if self._network.ports and port not in self._network.ports:
            raise FetchError(f"port {port} is not allowed here")
        addresses = _resolve(host, port, _left(self._deadline, self._network.connect_seconds))
        for address in addresses:
            plain = getattr(address, "ipv4_mapped", None) or address
            if not is_public(address) and not any(plain in network for network in self._allowed):
                raise FetchError(
                    f"the host {host[:100]!r} is not on the public internet; its operator has to allow it (network.allow)"
                )
        return addresses

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _resolve(host: str, port: int, seconds: float) -> list[IPv4Address | IPv6Address]:
    """The addresses of ``host``. The system's resolver has no time limit of its own, so it is asked in a thread."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if not answers:
        raise FetchError(f"nobody says where the host {host[:100]!r} is (waited {seconds:.0f} s)")
    if isinstance(answers[0], Exception):
        raise FetchError(f"the host {host[:100]!r} has no address") from answers[0]
    return list(dict.fromkeys(ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers[0]))


class _Bounded(httpcore2.NetworkStream):
    """A connection that ends at a deadline, however often a little arrives."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline, timeout)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def fetch(url: str, target: Path, *, network: Network, max_bytes: int, tick: Callable[[int], None] | None = None) -> None:
    """Write what is at ``url`` into ``target``; ``tick(bytes so far)`` is called now and then and may raise to stop.

    Raises FetchError, whose message never holds a ``data:`` URI, and StorageUnavailable when ``target`` cannot be written.
    """
    problem = usable_url(url)
    if problem:
        raise FetchError(problem)
    if url.startswith("data:"):
        content = _inline(url, max_bytes)
        try:
            target.write_bytes(content)
        except OSError as error:
            raise _no_room(target, error) from error
        return
    deadline = time.monotonic() + network.total_seconds
    try:
        with httpcore2.ConnectionPool(network_backend=Guard(network, deadline)) as pool:
            for _ in range(network.redirects + 1):
                location = _download(pool, url, target, network, max_bytes, deadline, tick)
                if location is None:
                    return
                url = _redirected(url, location)
    except httpcore2.TimeoutException as error:
        raise FetchError(f"the server was silent or slow for too long (at most {network.total_seconds:g} s in all)") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
        raise FetchError(f"the connection failed: {str(error).strip() or type(error).__name__}") from error
    raise FetchError(f"redirected more than {network.redirects} times")


def _redirected(url: str, location: str) -> str:
    """Where a redirect from ``url`` goes. Raises FetchError."""
    try:
        url = urljoin(url, location)
    except ValueError as error:
        raise FetchError("redirected to what is not a URL") from error
    problem = "a redirect to data: is not followed" if url.startswith("data:") else usable_url(url)
    if problem:
        raise FetchError(f"redirected to what is not fetched: {problem}")
    return url


def _download(
    pool: httpcore2.ConnectionPool,
    url: str,
    target: Path,
    network: Network,
    max_bytes: int,
    deadline: float,
    tick: Callable[[int], None] | None,
) -> str | None:
    """Where it redirects to, or None when it is written."""
    headers = {"User-Agent": f"latentsync-ray/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    with pool.stream("GET", _encoded(url), headers=list(headers.items()), extensions=_timeouts(network)) as response:
        fields = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in fields:
            return fields[b"location"]
        if response.status != 200:
            raise FetchError(f"the server answered {response.status}")
        if fields.get(b"content-encoding", "identity") != "identity":
            raise FetchError("the server sends it compressed, which was not asked for")
        if int(fields.get(b"content-length", "0") or 0) > max_bytes:
            raise _too_large(max_bytes)
        size = 0
        try:
            with target.open("wb") as file:
                for block in response.iter_stream():
                    size += len(block)
                    if size > max_bytes:
                        raise _too_large(max_bytes)
                    if time.monotonic() > deadline:
                        raise httpcore2.ReadTimeout
                    file.write(block)
                    if tick:
                        tick(size)
        except OSError as error:  # the connection's own errors are httpcore's
            raise _no_room(target, error) from error
    if size == 0:
        raise FetchError("the server sent nothing")
    return None


def post(url: str, body: bytes, headers: dict[str, str], *, network: Network, timeout: float) -> int:
    """The status with which ``url`` answers to ``body``. No redirects. Raises FetchError."""
    problem = usable_url(url)
    if problem or url.startswith("data:"):
        raise FetchError(problem or "cannot be posted to")
    guard = Guard(network, time.monotonic() + timeout)
    try:
        with (
            httpcore2.ConnectionPool(network_backend=guard) as pool,
            pool.stream(
                "POST", _encoded(url), headers=list(headers.items()), content=body, extensions=_timeouts(network)
            ) as response,
        ):
            return response.status
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
        raise FetchError(f"the connection failed: {str(error).strip() or type(error).__name__}") from error


def _inline(url: str, max_bytes: int) -> bytes:
    """The content of a ``data:`` URI (RFC 2397)."""
    head, _, content = url.partition(",")
    if len(content) > max_bytes * 4 + 12:  # base64 takes 4 characters for 3 bytes, and percent-encoding 3 for one
        raise _too_large(max_bytes)
    data = unquote_to_bytes(content)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise FetchError("the data: URI is not valid base64") from error
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if not data:
        raise FetchError("the data: URI holds nothing")
    return data


def _encoded(url: str) -> str:
    """``url`` as it is sent: letters beyond ASCII in its path and query percent-encoded (RFC 3987, 3.1)."""
    return quote(url, safe=string.punctuation)


def _timeouts(network: Network) -> dict[str, Any]:
    read = network.read_seconds
    return {"timeout": {"connect": network.connect_seconds, "read": read, "write": read, "pool": read}}


def _left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left if timeout is None else min(left, timeout)


def _no_room(target: Path, error: OSError) -> StorageUnavailable:
    return (
        full(target.parent, error) if is_full(error) else StorageUnavailable(f"cannot keep what is fetched: {error.strerror}")
    )


def _too_large(max_bytes: int) -> FetchError:
    return FetchError(f"it is larger than {max_bytes / 1e6:g} MB")
