"""Keeps the error lines of Ray's C++ core off the terminal, where they tear a live display and speak of Ray's own affairs.

Ray writes them to its log files and, past Python and past every setting of Ray, to file descriptor 2. Some cannot be avoided
(Ray Data starts each pool of actors in a way that Ray Core warns of). Knows the look of such a line, not Ray.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from pathlib import Path
from typing import TextIO

__all__ = ["without_ray_lines"]

_RAY_LINE = re.compile(rb"(?:\x1b\[[\d;]*m)*\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [DIWE] \d+ \d+\] ")
"""How Ray's core begins a line, up to errors. What it is about to die of (C, F) is let through."""
_STDERR = 2
_PATIENCE = 2.0
"""Seconds for what was written last to come out."""


@contextmanager
def without_ray_lines() -> Iterator[None]:
    """Meanwhile, whatever native code writes on standard error passes through a process that drops Ray's error lines.

    Python's ``sys.stderr`` goes where it went before, directly. A process of its own, because what a crash writes last has to
    come out. Does nothing where ``sys.stderr`` is not the process's own standard error, as in notebooks and under pytest.
    """
    if not _is_stderr(sys.stderr):
        yield
        return
    before = sys.stderr
    before.flush()
    # Its file is never closed: who took sys.stderr meanwhile, as logging handlers do, may write to it long after.
    direct = os.fdopen(os.dup(_STDERR), "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    sieve = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; it ends when nobody can write to it any more
    )
    assert sieve.stdin
    os.dup2(sieve.stdin.fileno(), _STDERR)
    sieve.stdin.close()
    sys.stderr = direct
    try:
        yield
    finally:
        direct.flush()
        os.dup2(direct.fileno(), _STDERR)
        if sys.stderr is direct:
            sys.stderr = before
        with suppress(subprocess.TimeoutExpired):  # a process that we started and that lives on has our standard error, too
            sieve.wait(timeout=_PATIENCE)


def _is_stderr(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == _STDERR
    except (UnsupportedOperation, ValueError):
        return False


def _sift() -> None:
    """Copy standard input to standard error, but for Ray's lines."""
    for line in iter(sys.stdin.buffer.readline, b""):
        if not _RAY_LINE.match(line):
            with suppress(OSError):
                os.write(_STDERR, line)


if __name__ == "__main__":
    _sift()
