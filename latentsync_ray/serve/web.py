"""The ingress as one process of its own: uvicorn on this machine, with TLS when there are certificates."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from latentsync_ray import redact
from latentsync_ray.errors import ConfigError
from latentsync_ray.serve.app import build_app
from latentsync_ray.serve.server import Server

__all__ = ["check_port", "listen"]


class _Web(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def listen(
    server: Server, *, host: str, port: int, tls: tuple[Path, Path] | None = None, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Answer until SIGINT or SIGTERM."""
    secure: dict[str, Any] = {"ssl_certfile": str(tls[0]), "ssl_keyfile": str(tls[1])} if tls else {}
    config = uvicorn.Config(
        build_app(server),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=3,  # event streams and waiting calls end; their requests are in the queue
        **secure,
    )
    logging.getLogger("uvicorn.error").addFilter(_without_secrets)
    _Web(config, on_ready).run()


def _without_secrets(record: logging.LogRecord) -> bool:
    """Let a line through, with the traceback of a bug as it may be shown."""
    if record.exc_info and (error := record.exc_info[1]):
        record.exc_info, record.exc_text = None, redact.traceback_of(error)
    return True


def check_port(host: str, port: int, *, option: str = "--port") -> None:
    """Raises ConfigError when ``port`` is taken; ``option`` is what the message tells to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with {option}") from error
