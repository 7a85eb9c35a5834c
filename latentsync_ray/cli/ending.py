"""How a command ends: with which exit code, and within some seconds when it is told to, by Ctrl-C or SIGTERM."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn, Self

import typer

from latentsync_ray import redact
from latentsync_ray.cli.terminal import OUT
from latentsync_ray.errors import ConfigError, LatentSyncError, ModelError

__all__ = ["GRACE_SECONDS", "Ended", "ErrorsAsJson", "ending_in_time", "exit_code_of", "leave"]

GRACE_SECONDS = 20.0
"""Longest time from the signal to the end: less than the 30 s after which Kubernetes and spot machines are switched off."""
_ECHO_SECONDS = 1.0
"""The same signal so soon after the first is no second one: ``timeout`` tells the process, and then its whole group."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def exit_code_of(error: BaseException) -> int:
    """What a command exits with that ends with ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return error.exit_code if isinstance(error, Ended) else 128 + signal.SIGINT
    return 2 if isinstance(error, ConfigError | ModelError) else 1


class ErrorsAsJson:
    """``with ErrorsAsJson(wanted):`` what ends it is told on stdout too, as one object with ``error`` and ``exit_code``."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.wanted or error is None or isinstance(error, typer.Exit):
            return
        told = f"ended by {error}" if isinstance(error, Ended) else str(error)
        if not isinstance(error, Ended | LatentSyncError):
            told = f"{type(error).__name__}: {error}"
        OUT.print_json(json.dumps({"error": redact.text(told), "exit_code": exit_code_of(error)}), indent=None)


def leave(code: int) -> NoReturn:
    """End the process after what was to be done at its exit, without waiting for threads: they may be in the middle of C++."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def ending_in_time() -> Iterator[None]:
    """Meanwhile, the first SIGINT or SIGTERM raises ``Ended`` in the main thread, and the process ends in time whatever then
    keeps it, C code included. The second one ends it at once; an echo of the first does not.
    """
    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not told:
            told.append(number)
            raise Ended(number)

    heard, written = socket.socketpair()
    written.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(heard, written), name="latentsync-ending", daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    except SystemExit as left:
        if left.code != signal.SIGTERM:
            raise
        told.append(signal.SIGTERM)
        raise Ended(signal.SIGTERM) from None  # a handler of Ray's had taken the place of ours
    finally:
        if not told:  # else the process is about to end, and a second signal has to find all this
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            written.send(b"\0")
            watcher.join()


def _watch(heard: socket.socket, written: socket.socket) -> None:
    """Python calls handlers between two steps of the main thread, but writes at once which signal has come."""
    with heard, written:
        first = heard.recv(1)
        if first[0] not in _SIGNALS:
            return
        began = time.monotonic()
        try:
            while True:
                heard.settimeout(max(0.01, began + GRACE_SECONDS - time.monotonic()))
                last = heard.recv(1)
                if last != first or time.monotonic() > began + _ECHO_SECONDS:
                    break
        except TimeoutError:
            last = first
        os._exit(128 + (last[0] or first[0]))  # 0: the end came, and the first signal had gone to another handler
