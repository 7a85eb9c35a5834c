"""A machine without a network, and a small web on itself."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["offline", "web"]


@contextmanager
def offline() -> Iterator[list[str]]:
    """Meanwhile, Python in this process reaches no other machine; the list names the hosts that it asked for."""
    asked: list[str] = []
    known = socket.getaddrinfo

    def alone(host: Any) -> None:
        if isinstance(host, str | bytes) and os.fsdecode(host) not in ("127.0.0.1", "::1", "localhost", ""):
            asked.append(os.fsdecode(host))
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        alone(host)
        return known(host, *rest, **options)

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def guard(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX:
                alone(address[0])
            return call(self, address)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield asked


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@contextmanager
def web(folder: Path) -> Iterator[tuple[dict[str, int], Callable[[], bool]]]:
    """Ports of 127.0.0.1: ``site`` serves a folder, ``closed`` refuses, ``lure`` waits; and whether that was called."""
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder))) as site,
        socket.socket() as lure,
        socket.socket() as closed,
    ):
        threading.Thread(target=site.serve_forever, daemon=True).start()
        for each in (lure, closed):
            each.bind(("127.0.0.1", 0))
        lure.listen()
        lure.setblocking(False)

        def called() -> bool:
            try:
                lure.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        ports = {name: each.getsockname()[1] for name, each in (("lure", lure), ("closed", closed))}
        yield {"site": site.server_port, **ports}, called
        site.shutdown()
