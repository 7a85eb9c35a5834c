"""Processes of a test's own cluster, found in /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["cpu_workers", "descendants", "kill_soon", "model_workers"]


def descendants(ancestor: int) -> dict[int, bytes]:
    """Process ids and command lines of all that ``ancestor`` started, and they, and so on."""
    parents, names = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                names[int(path.name)] = (path / "cmdline").read_bytes()
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])

    def ours(pid: int) -> bool:
        while pid in parents and pid != ancestor:
            pid = parents[pid]
        return pid == ancestor

    return {pid: name for pid, name in names.items() if pid != ancestor and ours(pid)}


def model_workers(ancestor: int | None = None) -> list[int]:
    """Processes that hold a model, below ``ancestor`` or this process."""
    started = descendants(os.getpid() if ancestor is None else ancestor)
    return [pid for pid, name in started.items() if b"_ModelWorker" in name]


def cpu_workers(ancestor: int | None = None) -> list[int]:
    """Processes that run a stage without a model right now."""
    started = descendants(os.getpid() if ancestor is None else ancestor)
    return [pid for pid, name in started.items() if b"ray::FlatMap" in name]


def kill_soon(
    find: Callable[[], list[int]],
    *,
    told: signal.Signals = signal.SIGKILL,
    say: Callable[[int], None] = lambda pid: None,
    seconds: float = 60,
) -> list[int]:
    """Kill the first process that ``find`` gives, as soon as it gives one; it is said before and appended to the list."""
    killed: list[int] = []

    def wait() -> None:
        until = time.monotonic() + seconds
        while not killed and time.monotonic() < until:
            for pid in find()[:1]:
                killed.append(pid)
                say(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, told)
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()
    return killed
