"""Processes of a test's own cluster, found in /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["descendants", "model_workers"]


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
